//! The form of a snapshot: JSON with the revision and, for every object, its table and its state.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::meta::text;
use crate::resource::TableId;
use crate::store::Object;

/// How far the revision goes forward at a restore.
pub const REVISION_BUMP: u64 = 1_000_000;

#[derive(Deserialize)]
struct Snapshot {
    revision: u64,
    objects: Vec<(String, String, Value)>,
}

/// The snapshot of these objects.
pub fn write(objects: &[(TableId, Arc<Object>)], revision: u64) -> Vec<u8> {
    let size: usize = objects.iter().map(|(_, object)| object.bytes.len() + 64).sum();
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(format!("{{\"revision\":{revision},\"objects\":[").as_bytes());
    for (index, ((group, plural), object)) in objects.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        bytes.extend_from_slice(format!("{comma}[{},{},", json!(group), json!(plural)).as_bytes());
        bytes.extend_from_slice(&object.bytes);
        bytes.push(b']');
    }
    bytes.extend_from_slice(b"]}");
    bytes
}

/// The revision and the objects of a snapshot.
///
/// # Errors
/// What is wrong with the bytes.
pub fn parse(bytes: &[u8]) -> Result<(u64, Vec<(TableId, Object)>), String> {
    let snapshot: Snapshot = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if snapshot.revision > u64::MAX / 2 {
        return Err(format!("revision {} leaves no room for later ones", snapshot.revision));
    }
    let objects = snapshot.objects.into_iter().map(|(group, plural, value)| {
        let word = |field| text(&value, &["metadata", field]).to_owned();
        let key = (word("namespace"), word("name"));
        let revision =
            word("resourceVersion").parse().map_err(|_| format!("{plural} {key:?} has no resourceVersion"))?;
        Ok(((group, plural), Object::read(key, value, revision)))
    });
    Ok((snapshot.revision, objects.collect::<Result<_, String>>()?))
}
