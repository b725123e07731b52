use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const SHELTER: &str = include_str!("../examples/shelter.yaml");

fn options() -> Options {
    Options {
        operations: Vec::new(),
        name_bytes_max: 64,
        output_schemas: true,
    }
}

fn shelter() -> Api {
    Api::read(SHELTER, &options()).unwrap()
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// One operation `GET {path}` with these parameters.
fn one(path: &str, parameters: Value) -> Result<Api, DocumentError> {
    let document = json!({"openapi": "3.1.0", "paths": {path: {"get": {
        "operationId": "op", "parameters": parameters, "responses": {},
    }}}});
    Api::read(&document.to_string(), &options())
}

#[test]
fn operations_become_tools_and_what_cannot_says_why() {
    let api = shelter();
    let names: Vec<&str> = api.operations().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "addAnimal",
            "get_animals_animalId",
            "listAnimals",
            "removeAnimal",
            "replace_animal"
        ]
    );
    let refused: Vec<_> = api
        .refused
        .iter()
        .map(|refused| format!("{}: {}", refused.operation, refused.reason))
        .collect();
    assert_eq!(
        refused,
        [
            "PUT /animals/{animalId}/photo: its body is none that can be sent: image/png",
            "GET /elsewhere: \"https://evil.example/parameters.json#/a\" lies outside of the document; references are not fetched",
        ]
    );
    for (name, read_only, destructive, idempotent) in [
        ("listAnimals", true, false, true),
        ("addAnimal", false, true, false),
        ("removeAnimal", false, true, true),
    ] {
        let hints = &api.operation(name).unwrap().definition["annotations"];
        assert_eq!(
            (
                &hints["readOnlyHint"],
                &hints["destructiveHint"],
                &hints["idempotentHint"]
            ),
            (&json!(read_only), &json!(destructive), &json!(idempotent)),
            "{name}"
        );
    }
    let replace = &api.operation("replace_animal").unwrap().definition;
    assert_eq!(
        replace["description"],
        "Deprecated. (PUT /animals/{animalId})"
    );
}

#[test]
fn schemas_stand_alone_and_know_their_way() {
    let api = shelter();
    let list = &api.operation("listAnimals").unwrap().definition;
    assert_eq!(
        list["inputSchema"],
        json!({
            "type": "object",
            "additionalProperties": false,
            "required": [],
            "properties": {
                "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20, "description": "How many"},
                "kind": {"type": "array", "items": {"$ref": "#/$defs/Kind"}},
                "tags": {"type": "array", "items": {"type": "string"}},
                "filter": {"type": "object", "properties": {"age": {"type": "object", "properties": {"min": {"type": "integer", "exclusiveMinimum": 0}}}}},
                "X-Locale": {"type": "string"},
            },
            "$defs": {"Kind": {"type": "string", "enum": ["cat", "dog"]}},
        })
    );
    let add = &api.operation("addAnimal").unwrap().definition;
    let sent = &add["inputSchema"]["$defs"]["Animal"];
    assert_eq!(sent["required"], json!(["name"]));
    assert!(sent["properties"].get("id").is_none() && sent["properties"].get("chip").is_some());
    assert_eq!(
        sent["properties"]["born"]["type"],
        json!(["string", "null"])
    );
    assert_eq!(sent["properties"]["name"]["examples"], json!(["Minka"]));
    assert_eq!(
        sent["properties"]["mother"],
        json!({"anyOf": [{"allOf": [{"$ref": "#/$defs/Animal"}]}, {"type": "null"}]})
    );
    let received = &add["outputSchema"];
    assert_eq!(received["type"], "object");
    assert!(
        received["$defs"]["Animal"]["properties"]
            .get("chip")
            .is_none()
    );
    assert_eq!(list["outputSchema"]["properties"]["value"]["type"], "array");
}

#[test]
fn arguments_go_where_they_belong() {
    let api = shelter();
    let list = api.operation("listAnimals").unwrap();
    let request = list
        .request(&map(json!({
            "limit": 5, "kind": ["cat", "dog"], "tags": ["a b", "c,d"], "filter": {"age": {"min": 2}}, "X-Locale": "de",
        })))
        .unwrap();
    assert_eq!(
        request.query,
        "filter%5Bage%5D%5Bmin%5D=2&kind=cat&kind=dog&limit=5&tags=a%20b,c%2Cd"
    );
    assert_eq!(request.headers, [("x-locale".into(), "de".into())]);
    let add = api.operation("addAnimal").unwrap();
    let request = add
        .request(&map(
            json!({"body": {"name": "Minka", "mother": {"name": "Mia"}}}),
        ))
        .unwrap();
    let body = request.body.unwrap();
    assert_eq!(body.content_type, "application/json");
    assert_eq!(
        serde_json::from_slice::<Value>(&body.bytes).unwrap(),
        json!({"name": "Minka", "mother": {"name": "Mia"}})
    );
    let replace = api.operation("replace_animal").unwrap();
    let request = replace
        .request(&map(
            json!({"animalId": "a/b?c", "body": {"name": "A&B", "tags": ["x", "y"]}}),
        ))
        .unwrap();
    assert_eq!(request.path, "/animals/a%2Fb%3Fc");
    assert_eq!(
        request.body.unwrap().bytes,
        b"name=A%26B&tags=x&tags=y".to_vec()
    );
}

#[test]
fn every_style_of_parameter() {
    let list = json!(["a", "b"]);
    let object = json!({"r": 1, "g": 2});
    for (parameter, value, path, query) in [
        (json!({"in": "path"}), &list, "/x/a,b", ""),
        (json!({"in": "path"}), &object, "/x/g,2,r,1", ""),
        (
            json!({"in": "path", "explode": true}),
            &object,
            "/x/g=2,r=1",
            "",
        ),
        (
            json!({"in": "path", "style": "label", "explode": true}),
            &list,
            "/x/.a.b",
            "",
        ),
        (
            json!({"in": "path", "style": "matrix"}),
            &list,
            "/x/;p=a,b",
            "",
        ),
        (
            json!({"in": "path", "style": "matrix", "explode": true}),
            &list,
            "/x/;p=a;p=b",
            "",
        ),
        (
            json!({"in": "path", "style": "matrix", "explode": true}),
            &object,
            "/x/;g=2;r=1",
            "",
        ),
        (json!({"in": "query"}), &object, "/x", "g=2&r=1"),
        (
            json!({"in": "query", "explode": false}),
            &object,
            "/x",
            "p=g,2,r,1",
        ),
        (
            json!({"in": "query", "style": "spaceDelimited", "explode": false}),
            &list,
            "/x",
            "p=a%20b",
        ),
        (
            json!({"in": "query", "style": "pipeDelimited", "explode": false}),
            &list,
            "/x",
            "p=a%7Cb",
        ),
        (
            json!({"in": "query", "style": "deepObject"}),
            &object,
            "/x",
            "p%5Bg%5D=2&p%5Br%5D=1",
        ),
        (
            json!({"in": "query", "content": {"application/json": {}}}),
            &list,
            "/x",
            "p=%5B%22a%22%2C%22b%22%5D",
        ),
        (
            json!({"in": "query", "allowReserved": true}),
            &json!("a/b:c&d"),
            "/x",
            "p=a/b:c%26d",
        ),
        (json!({"in": "query"}), &json!([]), "/x", ""),
    ] {
        let mut parameter = parameter;
        parameter["name"] = "p".into();
        let template = if parameter["in"] == "path" {
            "/x/{p}"
        } else {
            "/x"
        };
        let api = one(template, json!([parameter])).unwrap();
        let request = api
            .operation("op")
            .unwrap()
            .request(&map(json!({"p": value})))
            .unwrap();
        assert_eq!(
            (request.path.as_str(), request.query.as_str()),
            (path, query),
            "{parameter}"
        );
    }
}

#[test]
fn arguments_that_would_leave_their_place_are_refused() {
    let api = one(
        "/x/{p}/y",
        json!([{"name": "p", "in": "path"}, {"name": "h", "in": "header"}]),
    )
    .unwrap();
    let op = api.operation("op").unwrap();
    for (arguments, error) in [
        (json!({}), RequestError::Missing("p".into())),
        (json!({"p": null}), RequestError::Missing("p".into())),
        (json!({"p": "a", "q": 1}), RequestError::Unknown("q".into())),
    ] {
        assert_eq!(op.request(&map(arguments)).unwrap_err(), error);
    }
    for arguments in [
        json!({"p": ".."}),
        json!({"p": "."}),
        json!({"p": ""}),
        json!({"p": "a", "h": "x\r\nHost: evil"}),
    ] {
        let refused = op.request(&map(arguments.clone())).unwrap_err();
        assert!(
            matches!(refused, RequestError::Unsendable { .. }),
            "{arguments}"
        );
    }
    let long = "x".repeat(20_000);
    assert_eq!(
        op.request(&map(json!({"p": long}))).unwrap_err(),
        RequestError::TooLong
    );
}

#[test]
fn answers_become_results() {
    let api = shelter();
    let answer = |name: &str, status, content_type, body: &[u8]| {
        let response = Response {
            status,
            content_type: Some(content_type),
            body,
        };
        api.operation(name).unwrap().result(&response)
    };
    let listed = answer(
        "listAnimals",
        200,
        "application/json; charset=utf-8",
        br#"[{"id":1}]"#,
    );
    assert_eq!(listed["structuredContent"], json!({"value": [{"id": 1}]}));
    assert_eq!(listed["content"][0]["text"], r#"[{"id":1}]"#);
    let added = answer(
        "addAnimal",
        201,
        "application/json",
        br#"{"id":1,"name":"x"}"#,
    );
    assert_eq!(added["structuredContent"], json!({"id": 1, "name": "x"}));
    let removed = answer("removeAnimal", 204, "", b"");
    assert_eq!(
        (&removed["isError"], &removed["content"][0]["text"]),
        (&json!(false), &json!("HTTP 204"))
    );
    let image = answer("removeAnimal", 200, "image/png", &[0xff, 0xd8]);
    assert_eq!(
        image["content"][0],
        json!({"type": "image", "data": "/9g=", "mimeType": "image/png"})
    );
    for (status, body, text) in [
        (404, "no such animal", "HTTP 404\nno such animal"),
        (500, "", "HTTP 500"),
        (
            302,
            "",
            "HTTP 302: the API redirects elsewhere, which is not followed",
        ),
        (
            200,
            "<html>",
            "HTTP 200: the API's answer is not the JSON that its document promises",
        ),
    ] {
        let failed = answer("listAnimals", status, "text/html", body.as_bytes());
        assert_eq!(
            (&failed["isError"], &failed["content"][0]["text"]),
            (&json!(true), &json!(text))
        );
    }
}

#[test]
fn documents_are_bounded() {
    for (text, says) in [
        ("{", "not JSON"),
        ("[1, 2", "neither JSON nor YAML"),
        (r#"{"swagger": "2.0"}"#, "`openapi` is missing"),
        (r#"{"openapi": "4.0.0"}"#, "`openapi` is 4.0.0"),
        (r#"{"openapi": "3.1.0"}"#, "no object `paths`"),
    ] {
        let error = Api::read(text, &options()).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let mut bomb = String::from("openapi: 3.0.0\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    assert!(matches!(
        Api::read(&bomb, &options()),
        Err(DocumentError::Yaml(_))
    ));
}

#[test]
fn references_in_circles_and_to_nowhere_cost_one_operation() {
    let document = |schema: Value| {
        let document = json!({"openapi": "3.1.0",
        "paths": {"/x": {"get": {"operationId": "op", "parameters": [{"name": "p", "in": "query", "schema": schema}]}}},
        "components": {"schemas": {
            "A": {"$ref": "#/components/schemas/B"},
            "B": {"$ref": "#/components/schemas/A"},
            "Tree": {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}}},
        }}});
        Api::read(&document.to_string(), &options()).unwrap()
    };
    let tree = document(json!({"$ref": "#/components/schemas/Tree"}));
    let schema = &tree.operation("op").unwrap().definition["inputSchema"];
    assert_eq!(
        schema["$defs"]["Tree"]["properties"]["children"]["items"],
        json!({"$ref": "#/$defs/Tree"})
    );
    // Legal JSON Schema that nothing satisfies; it must only end.
    assert!(
        document(json!({"$ref": "#/components/schemas/A"}))
            .refused
            .is_empty()
    );
    for schema in [
        json!({"$ref": "#/components/schemas/None"}),
        json!({"$ref": "other.yaml"}),
        json!({"$dynamicRef": "#x"}),
        json!(7),
        (0..70).fold(json!({}), |inner, _| json!({"not": inner})),
    ] {
        let api = document(schema);
        assert_eq!((api.operations().count(), api.refused.len()), (0, 1));
    }
}

#[test]
fn only_wanted_tools_are_served_and_long_names_stay_apart() {
    let wanted = Options {
        operations: vec!["list*".into(), "removeAnimal".into()],
        ..options()
    };
    let api = Api::read(SHELTER, &wanted).unwrap();
    assert_eq!(
        api.operations().map(|(name, _)| name).collect::<Vec<_>>(),
        ["listAnimals", "removeAnimal"]
    );
    let paths: Map<String, Value> = ["a", "b"]
        .iter()
        .map(|end| (format!("/{}{end}", "x".repeat(80)), json!({"get": {}})))
        .collect();
    let document = json!({"openapi": "3.1.0", "paths": paths}).to_string();
    let api = Api::read(
        &document,
        &Options {
            name_bytes_max: 20,
            ..options()
        },
    )
    .unwrap();
    let names: Vec<_> = api.operations().map(|(name, _)| name).collect();
    assert!(
        names.len() == 2 && names.iter().all(|name| name.len() == 20),
        "{names:?}"
    );
}

proptest! {
    #[test]
    fn no_argument_leaves_its_segment_or_pair(text in "\\PC{1,40}") {
        let api = one("/x/{p}/y", json!([{"name": "p", "in": "path"}, {"name": "q", "in": "query"}])).unwrap();
        let request = api.operation("op").unwrap().request(&map(json!({"p": text, "q": text})));
        if let Ok(request) = request {
            let segments: Vec<&str> = request.path.split('/').collect();
            prop_assert!(segments.len() == 4 && !["", ".", ".."].contains(&segments[2]));
            prop_assert!(!request.path.contains(['?', '#']));
            prop_assert_eq!(request.query.matches(['&', '#']).count(), 0);
            let value = request.query.strip_prefix("q=").unwrap();
            let decoded = percent_encoding::percent_decode_str(value).decode_utf8().unwrap();
            prop_assert_eq!(decoded, text);
        }
    }
}
