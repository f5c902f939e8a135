//! The document is whole: nothing in it refers to what is not there, and its refusals are those of the code.

use berth_shared::problem::Code;
use serde_json::{Value, json};

use super::document::compose;
use super::response::REFUSALS;
use crate::api::path::Resource;
use crate::api::problem::status_and_code;

fn lamp() -> Value {
    json!([{
        "kind": "lamp",
        "state": { "type": "object", "properties": { "next": { "$ref": "#/$defs/Node" } }, "$defs": { "Node": { "$ref": "#" } } },
        "commands": {
            "toggle": { "type": "object", "additionalProperties": false, "description": "On or off." },
            "dim": { "type": "object", "required": ["to"], "properties": { "to": { "type": "integer" } } },
        },
        "events": { "toggled": {} },
        "reply": { "type": "null" },
    }])
}

fn document(kinds: &Value) -> Value {
    serde_json::from_slice(&compose(kinds.to_string().as_bytes()).unwrap()).unwrap()
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(reference) if name == "$ref" => found.push(reference.to_owned()),
                    _ => references(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document(&lamp());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn a_kind_has_an_operation_for_each_command() {
    let document = document(&lamp());
    let toggle = &document["paths"]["/v1/entities/lamp/{id}/toggle"]["post"];
    assert_eq!((&toggle["operationId"], &toggle["description"]), (&json!("lamp.toggle"), &json!("On or off.")));
    assert_eq!(toggle["requestBody"]["required"], json!(false));
    let dim = &document["paths"]["/v1/entities/lamp/{id}/dim"]["post"];
    assert_eq!(dim["requestBody"]["required"], json!(true));
    let arguments = json!({ "$ref": "#/components/schemas/lamp.dim" });
    assert_eq!(dim["requestBody"]["content"]["application/json"]["schema"], arguments);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["lamp.dim"]["required"], json!(["to"]));
    assert_eq!(schemas["lamp.Outcome"]["properties"]["kind"]["const"], "lamp");
    assert_eq!(schemas["lamp.Outcome"]["properties"]["reply"]["$ref"], "#/components/schemas/lamp.Reply");
    assert_eq!(schemas["lamp.State"]["properties"]["next"]["$ref"], "#/components/schemas/lamp.State/$defs/Node");
    assert_eq!(schemas["lamp.State"]["$defs"]["Node"]["$ref"], "#/components/schemas/lamp.State");
    // What stands for any kind stays as it is.
    assert_eq!(schemas["Outcome"]["properties"]["kind"], json!({ "type": "string" }));
}

#[test]
fn operations_have_names_of_their_own() {
    let document = document(&lamp());
    let mut names: Vec<&Value> = Vec::new();
    for item in document["paths"].as_object().unwrap().values() {
        names.extend(item.as_object().unwrap().values().filter_map(|operation| operation.get("operationId")));
    }
    let all = names.len();
    names.sort_by_key(|name| name.as_str());
    names.dedup();
    assert_eq!((names.len(), all > 10), (all, true));
}

#[test]
fn what_is_described_is_what_is_allowed() {
    let document = document(&lamp());
    for (path, item) in document["paths"].as_object().unwrap() {
        let mut methods: Vec<String> = item.as_object().unwrap().keys().map(|name| name.to_uppercase()).collect();
        methods.push("OPTIONS".into());
        if item.get("get").is_some() {
            methods.push("HEAD".into());
        }
        methods.sort();
        let named = path.replace("{kind}", "lamp").replace("{id}", "a").replace("{command}", "dim");
        assert_eq!(methods.join(", "), Resource::parse(&named).unwrap().allow(), "{path}");
    }
}

#[test]
fn every_code_is_described_with_its_status() {
    for code in Code::ALL {
        let (status, text) = status_and_code(code);
        let is_described = REFUSALS.iter().any(|refusal| refusal.status == status.as_u16() && refusal.code == text);
        assert!(is_described, "{status} {text}");
    }
    let document = document(&json!([]));
    for refusal in REFUSALS {
        let response = &document["components"]["responses"][format!("Problem{}", refusal.status)];
        assert!(response["description"].as_str().unwrap().contains(refusal.code), "{refusal:?}");
    }
}

#[test]
fn what_is_no_description_of_kinds_is_an_error() {
    for kinds in [json!(null), json!([{ "kind": "lamp" }]), json!({})] {
        assert!(compose(kinds.to_string().as_bytes()).is_err(), "{kinds}");
    }
}
