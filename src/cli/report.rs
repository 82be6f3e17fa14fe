//! What commands tell: one line of JSON, or text for people.

use serde::Serialize;
use serde_json::{Map, Value};

use cuttle::store::{Ledger, Reader};
use cuttle::{Error, Result};

use super::{Context, human};

/// What the keys of all lines mean, as docs/json.md says it: another number where one of them goes or changes its meaning.
const SCHEMA: u32 = 1;
/// How times that are counted in milliseconds are named inside.
const UNIX_MS: &str = "_unix_ms";

/// What a command did, found, or would do.
pub trait Report: Serialize {
    /// What kind of line it is. Most commands end with one summary.
    const MESSAGE_TYPE: &'static str = "summary";

    /// What was asked for, which `--quiet` does not silence; for people.
    fn answer(&self) -> String {
        String::new()
    }

    /// What became of it, for people.
    fn summary(&self) -> String {
        String::new()
    }
}

/// A report as one line of JSON.
pub fn line<R: Report>(report: &R) -> Result<String> {
    let mut line = Map::new();
    line.insert("message_type".to_owned(), R::MESSAGE_TYPE.into());
    line.insert("schema".to_owned(), SCHEMA.into());
    match value(report)? {
        Value::Object(keys) => line.extend(keys),
        _ => return Err(Error::internal("a report without keys")),
    }
    Ok(Value::Object(line).to_string())
}

/// What is listed, as one line of JSON.
pub fn list(listed: &impl Serialize) -> Result<String> {
    Ok(value(listed)?.to_string())
}

fn value(of: &impl Serialize) -> Result<Value> {
    let value = serde_json::to_value(of).map_err(|e| Error::internal("a result is no JSON").caused_by(e))?;
    Ok(named(value))
}

/// Names one thing in one way, wherever it stands: what has a volume and a sequence is the `snapshot` of that name, and a time is
/// text and ends with `_at`.
fn named(value: Value) -> Value {
    let object = match value {
        Value::Array(list) => return Value::Array(list.into_iter().map(named).collect()),
        Value::Object(object) => object,
        other => return other,
    };
    let snapshot = match (object.get("volume"), object.get("sequence")) {
        (Some(Value::String(_)), Some(Value::Null)) => Some(Value::Null),
        (Some(Value::String(volume)), Some(sequence)) => Some(format!("{volume}@{sequence}").into()),
        _ => None,
    };
    let mut out: Map<_, _> = snapshot.map(|name| ("snapshot".to_owned(), name)).into_iter().collect();
    for (key, value) in object {
        match (key.strip_suffix(UNIX_MS), value.as_u64()) {
            (Some(what), Some(unix_ms)) => {
                out.insert(format!("{what}_at"), human::utc_time(unix_ms).into());
            }
            _ => {
                out.insert(key, named(value));
            }
        }
    }
    Value::Object(out)
}

/// Lines below one another; those that say nothing are left out.
pub fn lines(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Tells what was asked of the store, for who wants to know: the other commands have this in their summary.
pub fn note_requests(context: &Context<'_>, store: &Reader) {
    if context.ui.verbose() > 0 {
        context.ui.remark(&ledger_line(&store.ledger()));
    }
}

/// `requests: 12 put, 5 get, 3 head, 2 list, 0 delete; sent 18.3 MiB, received 20.1 KiB`
pub fn ledger_line(ledger: &Ledger) -> String {
    let kinds = [
        (ledger.put_requests, "put"),
        (ledger.get_requests, "get"),
        (ledger.head_requests, "head"),
        (ledger.list_requests, "list"),
        (ledger.delete_requests, "delete"),
    ];
    let kinds: Vec<String> = kinds.iter().map(|(n, kind)| format!("{} {kind}", human::count(*n))).collect();
    let mut line = format!(
        "requests: {}; sent {}, received {}",
        kinds.join(", "),
        human::size(ledger.uploaded_bytes),
        human::size(ledger.downloaded_bytes)
    );
    if ledger.retries > 0 || ledger.throttled > 0 {
        line += &format!(
            "; {} tried again, {} slowed down by the store",
            human::count(ledger.retries),
            human::count(ledger.throttled)
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::named;
    use serde_json::json;

    #[test]
    fn one_thing_has_one_name() {
        let told = named(json!({
            "hurt": [{ "volume": "vms/db", "sequence": 2, "whole": true }],
            "new": { "volume": "vms/db", "sequence": null },
            "volume": { "volume": "vms/db", "size_bytes": 7 },
            "last_sign_unix_ms": 1000,
        }));
        let expected = json!({
            "hurt": [{ "snapshot": "vms/db@2", "volume": "vms/db", "sequence": 2, "whole": true }],
            "new": { "snapshot": null, "volume": "vms/db", "sequence": null },
            "volume": { "volume": "vms/db", "size_bytes": 7 },
            "last_sign_at": "1970-01-01T00:00:01Z",
        });
        assert_eq!(told, expected);
    }
}
