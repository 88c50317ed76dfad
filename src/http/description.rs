//! The API's description: OpenAPI 3.1 from the handlers' annotations.
//!
//! An annotation describes its own operation. This adds what all operations share: the token, the errors that arise before a
//! handler runs (path, query, body, token, run), and the meaning of each status.

use super::auth::SESSION_COOKIE;
use app::api::DASHBOARD_HEADER;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

/// The meaning of each status of an error, with the codes of the body.
const ERRORS: [(&str, &str); 18] = [
    ("400", "`bad_request`: path, query, header or body cannot be read"),
    ("401", "`unauthorized`: no token, or not a valid one"),
    (
        "403",
        "`kicked`, `quarantined`, `not_admitted`: the client may not take part; `wrong_secret`: the join secret is missing or wrong; \
         `cross_site`: a session's request lacks the dashboard's header",
    ),
    ("404", "`not_found`: no such run, client, round or version"),
    ("406", "`not_acceptable`: no representation that the client accepts"),
    ("408", "`timeout`: the body came too slowly"),
    ("409", "`conflict`: the state of the run does not allow it, such as when it is archived"),
    ("410", "`round_closed`: the round is over"),
    ("412", "`precondition_failed`: it has changed since the caller read it"),
    ("413", "`too_large`: the body exceeds its limit"),
    ("415", "`unsupported_media_type`: a Content-Type or Content-Encoding that is not accepted here"),
    ("416", "the range lies outside the body"),
    ("422", "`invalid`: the request was read and is not acceptable; `problems` lists each reason"),
    ("425", "`too_early`: the round has not opened yet"),
    ("428", "`precondition_required`: the header If-Match is missing"),
    ("429", "`too_many`: too many requests of this kind at once"),
    ("500", "`internal`: a defect of the coordinator"),
    ("503", "`unavailable`: temporary, such as a database that cannot be written, or a run that cannot be read"),
];

/// The document as it is served.
pub fn completed(document: OpenApi) -> Value {
    // The types of utoipa have string keys and no failing serializers.
    let mut document = serde_json::to_value(document).expect("an OpenAPI document serializes");
    for (name, whole) in [("TrainConfigPatch", "TrainConfig"), ("RunConfigPatch", "RunConfig")] {
        document["components"]["schemas"][name] = patch_of(&document["components"]["schemas"][whole]);
    }
    let schemas = document["components"]["schemas"].clone();
    for schema in document["components"]["schemas"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for variant in schema.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
            join_parts(variant, &schemas);
        }
    }
    if let Some(info) = document["info"].as_object_mut() {
        info.remove("contact"); // utoipa-axum's
    }
    document["components"]["securitySchemes"] = json!({
        "client": {"type": "http", "scheme": "bearer", "description": "The token that the client got when it registered"},
        "admin": {"type": "http", "scheme": "bearer", "description": "The admin token"},
        "session": {
            "type": "apiKey", "in": "cookie", "name": SESSION_COOKIE,
            "description": format!("A log-in on the dashboard. Changes also need the header `{DASHBOARD_HEADER}: 1`."),
        },
    });
    correct(&mut document);
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            complete(path, method, operation, &schemas);
        }
    }
    document
}

fn complete(path: &str, method: &str, operation: &mut Value, schemas: &Value) {
    if operation.get("security").is_none() {
        operation["security"] = match operation["tags"][0].as_str() {
            Some("client") => json!([{"client": []}]),
            _ => json!([{"admin": []}, {"session": []}]),
        };
    }
    let bodies = operation.pointer_mut("/requestBody/content").and_then(Value::as_object_mut);
    for (media_type, content) in bodies.into_iter().flatten() {
        make_binary(media_type, content);
    }
    let common = common_errors(path, method, operation);
    let summary = operation["summary"].clone();
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for status in common {
        responses.entry(status).or_insert_with(|| json!({}));
    }
    for (status, response) in responses {
        let Some(response) = response.as_object_mut() else { continue };
        describe(status, response, &summary, schemas);
        for (media_type, content) in response.get_mut("content").and_then(Value::as_object_mut).into_iter().flatten() {
            make_binary(media_type, content);
        }
    }
}

/// Statuses of errors that arise before the operation's handler runs, or when the store fails.
fn common_errors(path: &str, method: &str, operation: &Value) -> Vec<&'static str> {
    let mut statuses = Vec::new();
    let security = operation["security"].as_array().map_or(&[][..], Vec::as_slice);
    let is_open = security.iter().all(|scheme| scheme.as_object().is_some_and(Map::is_empty));
    let has_session = security.iter().any(|scheme| scheme.get("session").is_some());
    if operation["parameters"].is_array() {
        statuses.push("400");
    }
    if path.contains("{run}") {
        statuses.extend(["404", "500", "503"]);
        if method != "get" {
            statuses.push("409"); // the run is archived
        }
    }
    if !is_open {
        statuses.extend(["401", "500", "503"]);
        if has_session && method != "get" {
            statuses.push("403");
        }
    }
    if operation["requestBody"].is_object() {
        statuses.extend(["400", "408", "413", "415", "422"]);
    }
    statuses
}

fn describe(status: &str, response: &mut Map<String, Value>, summary: &Value, schemas: &Value) {
    let error = ERRORS.iter().find(|(known, _)| *known == status);
    let is_described = response.get("description").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if !is_described {
        let of_schema = || {
            let schema = response.get("content")?.as_object()?.values().next()?.get("schema")?;
            let name = schema.get("$ref").or_else(|| schema.get("items")?.get("$ref"))?.as_str()?.rsplit('/').next()?;
            schemas.get(name)?.get("description").cloned()
        };
        let text = match error {
            Some((_, text)) => json!(text),
            None => of_schema().unwrap_or_else(|| summary.clone()),
        };
        response.insert("description".to_owned(), text);
    }
    if error.is_some() && status != "416" {
        response
            .entry("content")
            .or_insert_with(|| json!({"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}));
    }
    let header = |text: &str, schema: Value| json!({"description": text, "schema": schema});
    let mut headers = |name: &str, value: Value| {
        response.entry("headers").or_insert_with(|| json!({}))[name] = value;
    };
    match status {
        "401" => headers("WWW-Authenticate", header("The scheme to authenticate with", json!({"type": "string"}))),
        "425" | "429" | "503" => {
            headers(
                "Retry-After",
                header("Seconds to wait before the next try", json!({"type": "integer", "minimum": 0})),
            );
        }
        _ => {}
    }
}

/// Makes one object of a tagged variant that utoipa describes as `allOf` two: generators make no type of that.
fn join_parts(variant: &mut Value, schemas: &Value) {
    let Some(parts) = variant.get_mut("allOf").map(Value::take) else { return };
    let (mut required, mut properties) = (Vec::new(), Map::new());
    for part in parts.as_array().into_iter().flatten() {
        let name = part.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
        let part = name.and_then(|name| schemas.get(name)).unwrap_or(part);
        required.extend(part["required"].as_array().cloned().unwrap_or_default());
        properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
    }
    let description = variant["description"].take();
    *variant = json!({"type": "object", "description": description, "required": required, "properties": properties});
}

/// Makes utoipa's schemas more exact: unsigned integers (`int64` is one bit too few), their largest value, and the one word of a
/// tag (generators make a type of an `enum`).
fn correct(schema: &mut Value) {
    if schema.get("minimum").and_then(Value::as_f64).is_some_and(|least| least >= 0.0) {
        let unsigned = match schema.get("format").and_then(Value::as_str) {
            Some("int32") => Some(("uint32", u64::from(u32::MAX))),
            Some("int64") => Some(("uint64", u64::MAX)),
            _ => None,
        };
        if let (Some((format, most)), Some(fields)) = (unsigned, schema.as_object_mut()) {
            fields.insert("format".to_owned(), json!(format));
            fields.entry("maximum").or_insert_with(|| json!(most));
        }
    }
    let word =
        schema.get("enum").and_then(Value::as_array).filter(|words| words.len() == 1).map(|words| words[0].clone());
    if let (Some(word), Some(fields)) = (word, schema.as_object_mut()) {
        fields.remove("enum");
        fields.insert("const".to_owned(), word);
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(correct),
        Value::Array(items) => items.iter_mut().for_each(correct),
        _ => {}
    }
}

/// The schema of a JSON merge patch of an object: the same fields, none of them required.
fn patch_of(whole: &Value) -> Value {
    let mut patch = whole.clone();
    if let Some(patch) = patch.as_object_mut() {
        patch.remove("required");
    }
    for field in patch["properties"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(object) = field.as_object_mut() {
            object.remove("default");
        }
        if field["$ref"] == "#/components/schemas/TrainConfig" {
            field["$ref"] = json!("#/components/schemas/TrainConfigPatch");
        }
    }
    patch
}

/// Describes bytes as a string of format `binary` instead of a list of integers, and events by name, id and data.
fn make_binary(media_type: &str, content: &mut Value) {
    if media_type == "text/event-stream" {
        content["schema"] = json!({
            "type": "object",
            "required": ["event", "id", "data"],
            "properties": {
                "event": {"type": "string", "enum": ["snapshot", "change"]},
                "id": {"type": "string", "description": "`seq` of the data"},
                "data": {"type": "string", "description": "JSON: a `RunSnapshot`, or an `Event`"},
            },
        });
    }
    let is_text = media_type.starts_with("text/")
        || ["application/json", "application/x-www-form-urlencoded"].contains(&media_type);
    if !is_text {
        content["schema"] = json!({"type": "string", "format": "binary"});
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::http::documented_routes;

    fn document() -> Value {
        let (_, document) = documented_routes(std::time::Duration::from_secs(1), 10).split_for_parts();
        completed(document)
    }

    fn operations(document: &Value) -> Vec<(String, &Value)> {
        let paths = document["paths"].as_object().unwrap().iter();
        let all = paths.flat_map(|(path, operations)| {
            operations.as_object().unwrap().iter().map(move |(method, op)| (format!("{method} {path}"), op))
        });
        all.collect()
    }

    #[test]
    fn every_response_is_described_and_every_error_has_the_same_body() {
        let document = document();
        for (name, operation) in operations(&document) {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let text = response["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{name} {status} has no description");
                if status.starts_with(['4', '5']) && status != "416" {
                    let schema = &response["content"]["application/json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/ErrorBody", "{name} {status}");
                }
            }
        }
    }

    #[test]
    fn every_operation_has_a_unique_id_a_summary_and_a_security_requirement() {
        let document = document();
        let all = operations(&document);
        let mut ids: Vec<_> = all.iter().map(|(_, operation)| operation["operationId"].as_str().unwrap()).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "an operation id is used twice");
        for (name, operation) in all {
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
            assert!(operation["security"].is_array(), "{name}");
        }
    }

    #[test]
    fn the_document_names_this_project_only() {
        let info = &document()["info"];
        assert_eq!((&info["title"], &info["version"]), (&json!("fedlearn"), &json!(env!("CARGO_PKG_VERSION"))));
        assert!(info.get("contact").is_none());
        assert_eq!(info["license"]["identifier"], "MIT OR Apache-2.0");
    }
}
