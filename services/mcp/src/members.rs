//! A JSON object as its members in the order they came, values untouched.
//!
//! This is how the crate adds or drops a member without reading, reordering or rounding the others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// Most members that are kept of one object; more is refused.
pub const MEMBERS_MAX: usize = 4096;

/// The members of a JSON object, in order. A name that comes twice is refused.
#[derive(Debug, Clone, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Members<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// When `raw` is no object, names a member twice, or has more than [`MEMBERS_MAX`].
    pub fn parse(raw: &'a RawValue) -> Result<Self, serde_json::Error> {
        serde_json::from_str(raw.get())
    }

    /// The value of a member.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| &**v)
    }

    /// The value of a member when it is a string.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<String> {
        self.get(name)
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// Sets a member: in its place if it is there, else at the end.
    pub fn set(&mut self, name: &'a str, value: Box<RawValue>) {
        let value = Cow::Owned(value);
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((Cow::Borrowed(name), value)),
        }
    }

    /// Adds a member whose name is not borrowed, at the end; the caller sees to it that it is new.
    pub fn push(&mut self, name: impl Into<Cow<'a, str>>, value: Box<RawValue>) {
        self.0.push((name.into(), Cow::Owned(value)));
    }

    /// Removes a member if it is there.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| n != name);
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(n, v)| (&**n, &**v))
    }

    /// The object as JSON text.
    #[must_use]
    pub fn to_raw(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(self).expect("strings and raw values always serialise")
    }
}

/// Any value as raw JSON.
#[must_use]
pub fn raw_of(value: &(impl Serialize + ?Sized)) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("what this crate writes always serialises")
}

/// Whether a value is an object.
#[must_use]
pub fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, &**value)?;
        }
        map.end()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, Cow<'de, RawValue>)> = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    if members.len() == MEMBERS_MAX {
                        return Err(A::Error::custom("too many members"));
                    }
                    // Objects here are small; a set is worth its allocation only for large ones.
                    if members.iter().any(|(n, _)| *n == name) {
                        return Err(A::Error::custom("a member is named twice"));
                    }
                    members.push((name, Cow::Borrowed(map.next_value()?)));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(V)
    }
}

/// A member's name: borrowed from the text unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_order_and_bytes() {
        let text = r#"{"b": 1.00e2 ,"a":{"x":[ ]},"\u0063":12345678901234567890}"#;
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let mut members = Members::parse(raw).unwrap();
        members.set("a", serde_json::value::to_raw_value(&2).unwrap());
        members.remove("nothing");
        assert_eq!(
            members.to_raw().get(),
            r#"{"b":1.00e2,"a":2,"c":12345678901234567890}"#
        );
    }

    #[test]
    fn what_is_no_plain_object_is_refused() {
        for text in ["[]", "1", r#"{"a":1,"a":2}"#, r#"{"a":1,"\u0061":2}"#] {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            assert!(Members::parse(raw).is_err(), "{text}");
        }
    }
}
