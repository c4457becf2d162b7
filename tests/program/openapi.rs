//! The API matches `src/web/openapi.yaml`, and that file describes all of it. Its objects are
//! closed and all their keys are required, so neither side can gain or lose a key alone.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::events::{Reader, turn_into};
use super::harness::{Exporter, Host, Reply};
use super::http::PATHS;
use super::robustness::HOSTILE;

const DESCRIPTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/openapi.yaml");

fn description() -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(DESCRIPTION).unwrap()).unwrap()
}

/// Returns how a value differs from a schema, if it does. It knows only the keywords that the
/// description uses.
fn difference(value: &Value, schema: &Value, description: &Value) -> Option<String> {
    let schema = schema.as_object().unwrap();
    schema.iter().find_map(|(keyword, wanted)| {
        let differs = match (keyword.as_str(), value) {
            ("$ref", _) => {
                let pointer = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                return difference(value, description.pointer(pointer).expect(pointer), description);
            }
            ("type", _) => !types(wanted).iter().any(|name| is(value, name)),
            ("enum", _) => !wanted.as_array().unwrap().contains(value),
            ("minimum", Value::Number(number)) => number.as_f64() < wanted.as_f64(),
            ("format", Value::String(text)) => {
                assert_eq!(wanted, "date-time");
                humantime::parse_rfc3339(text).is_err()
            }
            ("required", Value::Object(object)) => {
                wanted.as_array().unwrap().iter().any(|key| !object.contains_key(key.as_str().unwrap()))
            }
            ("properties", Value::Object(object)) => {
                return wanted.as_object().unwrap().iter().find_map(|(key, schema)| {
                    Some(format!("{key}: {}", difference(object.get(key)?, schema, description)?))
                });
            }
            ("additionalProperties", Value::Object(object)) => {
                let described =
                    |key: &String| schema.get("properties").is_some_and(|properties| !properties[key].is_null());
                return object.iter().filter(|(key, _)| !described(key)).find_map(|(key, value)| match wanted {
                    Value::Bool(false) => Some(format!("{key} is not described")),
                    schema => Some(format!("{key}: {}", difference(value, schema, description)?)),
                });
            }
            ("items", Value::Array(items)) => {
                return items.iter().find_map(|item| difference(item, wanted, description));
            }
            (
                "description" | "minimum" | "format" | "required" | "properties" | "additionalProperties" | "items",
                _,
            ) => false,
            (other, _) => panic!("this test does not know {other}"),
        };
        differs.then(|| format!("{value} is not of {keyword} {wanted}"))
    })
}

fn types(wanted: &Value) -> Vec<&str> {
    match wanted {
        Value::Array(types) => types.iter().map(|name| name.as_str().unwrap()).collect(),
        name => vec![name.as_str().unwrap()],
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    }
}

/// Checks every document of the API and every event of the stream against the description.
pub fn assert_described(exporter: &Exporter, what: &str) {
    let description = description();
    for (path, described) in description["paths"].as_object().unwrap() {
        let schema = &described["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        let difference = difference(&exporter.get(path).json(), schema, &description);
        assert_eq!(difference, None, "{what}: {path}");
    }
    let events = exporter.get("/api/v1/events").json()["events"].as_array().unwrap().len();
    let mut reader = Reader::open(exporter, &[("Last-Event-ID", "0")]);
    for _ in 0..events {
        let difference = difference(&reader.event(), &json!({"$ref": "#/components/schemas/Event"}), &description);
        assert_eq!(difference, None, "{what}: the stream");
    }
}

#[test]
fn what_is_answered_is_described() {
    for state in ["01-healthy", "02-net1-lost", "03-both-lost"] {
        let host = Host::recorded(state);
        assert_described(&host.exporter(&["--collector.nvme"]), state);
        assert_described(&host.exporter(&["--no-collector.multipathd"]), state);
    }
    assert_described(&Host::bare().exporter(&[]), "nothing");
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    turn_into("02-net1-lost", &host, &exporter);
    for (minor, name) in (10..).zip(HOSTILE) {
        host.sysfs.add_map(minor, name, [b"mpath-", name].concat(), &[]);
    }
    exporter.signal(Signal::HUP);
    exporter.await_values(&[("multipath_devices", 2.0 + HOSTILE.len() as f64)]);
    assert_described(&exporter, "hostile names and events");
}

#[test]
fn what_is_described_is_answered_and_nothing_else() {
    let described: BTreeSet<String> = description()["paths"].as_object().unwrap().keys().cloned().collect();
    let answered: BTreeSet<String> =
        PATHS.iter().filter(|path| path.starts_with("/api/")).map(|path| (*path).to_owned()).collect();
    assert_eq!(described, answered);
}

#[test]
fn refusals_are_described() {
    let host = Host::recorded("01-healthy");
    host.multipathd.daemon(Reply::Hold);
    let exporter = host.unready_exporter(&[]);
    let description = description();
    for (path, described) in description["paths"].as_object().unwrap() {
        let answer = exporter.get(path);
        let mut response = &described["get"]["responses"][answer.status.to_string()];
        if let Some(reference) = response["$ref"].as_str() {
            response = description.pointer(&reference[1..]).unwrap();
        }
        let content_type = answer.header("content-type").unwrap().split(';').next().unwrap();
        assert!(!response["content"][content_type].is_null(), "{path}: {} {content_type}", answer.status);
    }
}

#[test]
fn objects_are_closed_and_their_keys_required() {
    fn look(schema: &Value) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let required: BTreeSet<_> =
                schema["required"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
            let described: BTreeSet<_> = properties.keys().map(String::as_str).collect();
            assert_eq!((required, &schema["additionalProperties"]), (described, &json!(false)));
        }
        schema.as_object().into_iter().flat_map(|object| object.values()).for_each(look);
    }
    look(&description()["components"]["schemas"]);
}

#[test]
fn a_difference_is_found() {
    let description = description();
    let host = Host::recorded("02-net1-lost");
    let document = host.exporter(&[]).get("/api/v1/devices").json();
    let schema = json!({"$ref": "#/components/schemas/Devices"});
    assert_eq!(difference(&document, &schema, &description), None);
    for (pointer, value) in [
        ("/devices", json!({})),
        ("/devices/0", json!("mpatha")),
        ("/devices/0/state", json!("dead")),
        ("/devices/0/valid_paths", json!(-1)),
        ("/devices/0/valid_paths", json!(1.5)),
        ("/devices/0/size_bytes", json!("1")),
        ("/devices/0/path_events_total/path_failed", json!(null)),
        ("/devices/1/paths/1/valid", json!(1)),
    ] {
        let mut changed = document.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        assert!(difference(&changed, &schema, &description).is_some(), "{pointer}");
    }
    for pointer in ["/devices/0", "/devices/0/paths/0", "/devices/0/path_events_total"] {
        let mut more = document.clone();
        more.pointer_mut(pointer).unwrap()["new"] = json!(1);
        assert!(difference(&more, &schema, &description).is_some(), "{pointer}");
        let mut less = document.clone();
        let object = less.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        let first = object.keys().next().unwrap().clone();
        object.remove(&first);
        assert!(difference(&less, &schema, &description).is_some(), "{pointer}");
    }
    let event = json!({"time": "yesterday"});
    let time = json!({"properties": {"time": {"type": "string", "format": "date-time"}}});
    assert!(difference(&event, &time, &description).is_some());
}
