//! What an installation was told, kept with the agents for the next one: an upgrade by the command line alone must not
//! put a directory or a registry back to its default.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt as _;
use overlane_install::values::Values;
use serde_json::{Map, Value};

/// On the agents' DaemonSet: values as they were given, as JSON, the network's left out, which has an object of its own.
pub const ANNOTATION: &str = "overlane.io/install-values";

/// What was given at an earlier installation; none if there is none, or nothing was. The image's tag is not kept: the
/// next version has its own.
pub fn read(agents: Option<&DaemonSet>) -> Result<Option<Value>> {
    let Some(text) = agents.and_then(|agents| agents.annotations().get(ANNOTATION)) else { return Ok(None) };
    let given: Value =
        serde_json::from_str(text).with_context(|| format!("read annotation {ANNOTATION} of the agents' DaemonSet"))?;
    Ok(Some(given))
}

/// Writes on the agents' object among `objects` what was given: `given`, and the image's name that `values` have.
pub fn write(objects: &mut [Value], given: Option<&Value>, values: &Values) {
    let Some(agents) = objects.iter_mut().find(|object| object["kind"] == "DaemonSet") else { return };
    let mut kept = given.and_then(Value::as_object).cloned().unwrap_or_default();
    kept.remove("clusterNetwork");
    let image = kept.entry("image").or_insert_with(|| Value::Object(Map::new()));
    if !image.is_object() {
        *image = Value::Object(Map::new());
    }
    if let Some(image) = image.as_object_mut() {
        image.remove("tag");
        image.insert("repository".to_owned(), Value::String(values.image.repository.clone()));
    }
    if let Some(metadata) = agents.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        annotations[ANNOTATION] = Value::String(Value::Object(kept).to_string());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: an upgrade that puts a directory back to its default, or runs the image of the version before.

    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_given_comes_back() {
        let given = json!({"agent": {"cniBinDir": "/x"}, "image": {"tag": "old"}, "clusterNetwork": {"create": false}});
        let mut values = Values::over_defaults(given.clone()).unwrap();
        values.image.repository = "registry/overlane".to_owned();
        let mut objects = overlane_install::objects(&values, "kube-system").unwrap();
        write(&mut objects, Some(&given), &values);
        let agents = objects.into_iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let kept = read(Some(&serde_json::from_value(agents).unwrap())).unwrap().unwrap();
        assert_eq!(kept, json!({"agent": {"cniBinDir": "/x"}, "image": {"repository": "registry/overlane"}}));
        let again = Values::over_defaults(kept).unwrap();
        assert_eq!((again.agent.cni_bin_dir.as_str(), again.image.tag.as_str()), ("/x", ""));
        assert!(again.cluster_network.create);
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(read(None).unwrap(), None);
        assert_eq!(read(Some(&DaemonSet::default())).unwrap(), None);
        let mut odd = DaemonSet::default();
        odd.annotations_mut().insert(ANNOTATION.to_owned(), "{".to_owned());
        assert!(read(Some(&odd)).unwrap_err().to_string().contains(ANNOTATION));
    }
}
