//! The form of a snapshot: JSON with the revision and, for every object, its table and its state.

use serde::Deserialize;
use serde_json::Value;

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

/// The revision and the objects of a snapshot.
///
/// # Errors
/// What is wrong with the bytes.
pub fn parse(bytes: &[u8]) -> Result<(u64, Vec<(TableId, Object)>), String> {
    let snapshot: Snapshot = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let objects = snapshot.objects.into_iter().map(|(group, plural, value)| {
        let word = |field| text(&value, &["metadata", field]).to_owned();
        let key = (word("namespace"), word("name"));
        let revision = word("resourceVersion")
            .parse()
            .map_err(|_| format!("{plural} {key:?} has no resourceVersion"))?;
        Ok(((group, plural), Object::read(key, value, revision)))
    });
    Ok((snapshot.revision, objects.collect::<Result<_, String>>()?))
}
