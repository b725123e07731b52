//! A small MCP client of 2026-07-28, for what a test wants to say byte by byte.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Talks to one fleet with one token.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    token: String,
}

/// An HTTP answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: reqwest::header::HeaderMap,
    /// The body as JSON; null if it is none.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// A header's value, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }

    async fn read(response: reqwest::Response) -> Result<Answer> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok(Answer {
            status,
            headers,
            json: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        })
    }
}

impl Client {
    /// A client that sends `token`; an empty one is not sent.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(token: &str) -> Result<Client> {
        Ok(Client {
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(60))
                .no_proxy()
                // Fleets of tests speak plain HTTP; reading the machine's certificates would cost more than most calls.
                .tls_certs_only([])
                .build()?,
            token: token.to_owned(),
        })
    }

    /// A POST with this client's token.
    pub fn post(&self, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.post(url);
        if self.token.is_empty() {
            request
        } else {
            request.bearer_auth(&self.token)
        }
    }

    /// A GET with this client's token.
    pub fn get(&self, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.get(url);
        if self.token.is_empty() {
            request
        } else {
            request.bearer_auth(&self.token)
        }
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        Answer::read(request.send().await.context("no answer")?).await
    }

    /// POSTs JSON.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post_json(&self, url: &str, body: &Value) -> Result<Answer> {
        self.send(self.post(url).json(body)).await
    }

    /// One stateless MCP request.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn mcp(&self, url: &str, method: &str, mut params: Value) -> Result<Answer> {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "testkit", "version": "1"},
        });
        let mut request = self
            .post(url)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method);
        if let Some(name) = params
            .get("name")
            .or_else(|| params.get("uri"))
            .and_then(Value::as_str)
        {
            request = request.header("mcp-name", name);
        }
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.send(request.json(&body)).await
    }

    /// Calls a tool; its `structuredContent`, or else its result.
    ///
    /// # Errors
    /// When there is no answer, an error, or a result with `isError`.
    pub async fn call_tool(&self, url: &str, name: &str, arguments: Value) -> Result<Value> {
        let params = json!({"name": name, "arguments": arguments});
        let answer = self.mcp(url, "tools/call", params).await?;
        let result = &answer.json["result"];
        if !result.is_object() || result["isError"] == true {
            bail!("{name}: HTTP {}: {}", answer.status, answer.text);
        }
        Ok(match &result["structuredContent"] {
            Value::Null => result.clone(),
            structured => structured.clone(),
        })
    }
}
