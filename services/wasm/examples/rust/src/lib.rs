//! A plugin in Rust: statistics of numbers, and how often each word stands in a text.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use sweetmcp::plugin::host::{self, Level};

wit_bindgen::generate!({ path: "../../wit", world: "plugin" });

struct Example;
export!(Example);

#[derive(Deserialize)]
struct Numbers {
    numbers: Vec<f64>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

impl Guest for Example {
    fn list_tools() -> Result<Vec<String>, String> {
        let tool = |name: &str, description: &str, properties: Value| {
            let required: Vec<&String> = properties
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name)
                .collect();
            json!({
                "name": name,
                "description": description,
                "inputSchema": {"type": "object", "properties": properties, "required": required},
                "annotations": {"readOnlyHint": true},
            })
            .to_string()
        };
        let numbers = json!({"numbers": {"type": "array", "items": {"type": "number"}}});
        Ok(vec![
            tool("statistics", "Mean and spread of numbers.", numbers),
            tool(
                "frequencies",
                "How often each word stands in a text.",
                json!({"text": {"type": "string"}}),
            ),
        ])
    }

    fn call_tool(name: String, arguments: String) -> Result<String, String> {
        match name.as_str() {
            "statistics" => statistics(&read::<Numbers>(&arguments)?.numbers),
            "frequencies" => Ok(frequencies(&read::<Text>(&arguments)?.text)),
            _ => Err(format!("there is no tool {name}")),
        }
        .map(|result| result.to_string())
    }
}

fn read<T: for<'a> Deserialize<'a>>(arguments: &str) -> Result<T, String> {
    serde_json::from_str(arguments).map_err(|error| error.to_string())
}

fn statistics(numbers: &[f64]) -> Result<Value, String> {
    if numbers.is_empty() {
        return Err("there are no numbers".to_owned());
    }
    host::log(Level::Info, "counting");
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let variance = numbers
        .iter()
        .map(|number| (number - mean).powi(2))
        .sum::<f64>()
        / count;
    Ok(json!({"count": numbers.len(), "mean": mean, "deviation": variance.sqrt()}))
}

fn frequencies(text: &str) -> Value {
    let mut counted = BTreeMap::<&str, usize>::new();
    for word in text.split_whitespace() {
        *counted.entry(word).or_default() += 1;
    }
    host::progress(1.0, Some(1.0), Some("counted"));
    json!({"words": counted})
}
