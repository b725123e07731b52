//! What a signature covers: components of the request, and the text that is signed (RFC 9421, section 2).

use http::HeaderMap;
use sfv::{InnerList, ItemSerializer};

use crate::{COMPONENTS_MAX, Refused, signature_params};

/// The head of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The path as it came.
    pub path: &'a str,
    /// The query without its question mark.
    pub query: Option<&'a str>,
    /// All headers.
    pub headers: &'a HeaderMap,
}

/// The names of what is covered; a component with parameters has none that is known.
pub(crate) fn names(covered: &InnerList) -> Vec<&str> {
    let items = covered.items.iter();
    items
        .filter(|item| item.params.is_empty())
        .filter_map(|item| item.bare_item.as_string())
        .map(sfv::StringRef::as_str)
        .collect()
}

/// Whether nothing that changes what the request means is left out.
pub(crate) fn suffice(request: &Request<'_>, names: &[&str]) -> bool {
    let needed = [
        ("@method", true),
        ("@authority", true),
        ("@path", true),
        ("@query", request.query.is_some()),
        ("authorization", true),
        (
            "mcp-session-id",
            request.headers.contains_key("mcp-session-id"),
        ),
        ("content-digest", request.method == "POST"),
    ];
    needed
        .into_iter()
        .all(|(name, needed)| !needed || names.contains(&name))
}

/// The text that is signed.
pub(crate) fn base(request: &Request<'_>, covered: &InnerList) -> Result<String, Refused> {
    if covered.items.len() > COMPONENTS_MAX {
        return Err(Refused::Unreadable);
    }
    let mut base = String::new();
    let mut seen: Vec<&str> = Vec::new();
    for item in &covered.items {
        let name = item.bare_item.as_string().ok_or(Refused::Unreadable)?;
        // Parameters choose a part of a field, or another message: nothing that is needed here.
        if !item.params.is_empty() {
            return Err(Refused::Component);
        }
        if seen.contains(&name.as_str()) {
            return Err(Refused::Unreadable);
        }
        seen.push(name.as_str());
        let value = value(request, name.as_str()).ok_or(Refused::Component)?;
        let identifier = ItemSerializer::new().bare_item(name).finish();
        base.push_str(&format!("{identifier}: {value}\n"));
    }
    let params = signature_params(covered).ok_or(Refused::Unreadable)?;
    base.push_str(&format!("\"@signature-params\": {params}"));
    Ok(base)
}

fn value(request: &Request<'_>, name: &str) -> Option<String> {
    match name {
        "@method" => Some(request.method.to_owned()),
        "@authority" => field(request.headers, "host").map(|host| authority(&host)),
        "@path" if request.path.is_empty() => Some("/".to_owned()),
        "@path" => Some(request.path.to_owned()),
        "@query" => Some(format!("?{}", request.query.unwrap_or_default())),
        "@request-target" => Some(match request.query {
            Some(query) => format!("{}?{query}", request.path),
            None => request.path.to_owned(),
        }),
        name if name.starts_with('@') || name.bytes().any(|b| b.is_ascii_uppercase()) => None,
        name => field(request.headers, name),
    }
}

/// Lower case, without the port that the scheme has anyway.
fn authority(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let bare = host.strip_suffix(":80").or(host.strip_suffix(":443"));
    bare.map_or_else(|| host.clone(), str::to_owned)
}

/// A field's lines, trimmed and joined; `None` if it is not there or no ASCII.
pub(crate) fn field(headers: &HeaderMap, name: &str) -> Option<String> {
    if !headers.contains_key(name) {
        return None;
    }
    let lines: Option<Vec<&str>> = headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().ok().map(str::trim))
        .collect();
    Some(lines?.join(", "))
}
