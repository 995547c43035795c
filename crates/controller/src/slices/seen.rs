//! Slices as the API has them, kept as digests: whether one says what it is to say is all that is asked.

use std::hash::{BuildHasher as _, RandomState};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use overlane_api::crd::PodSliceSpec;
use overlane_core::blocks::ObjectRef;
use serde::{Deserialize, Deserializer};

use crate::objects;
use crate::slim::object_ref;

/// A PodSlice. One that a hand has spoilt is read all the same, so that it is put right and the others are heard.
#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = "overlane_api::crd::PodSlice")]
pub struct SlimSlice {
    /// Its metadata.
    pub metadata: ObjectMeta,
    #[serde(default, deserialize_with = "sound")]
    spec: Option<PodSliceSpec>,
}

fn sound<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PodSliceSpec>, D::Error> {
    Ok(serde_json::from_value(serde_json::Value::deserialize(from)?).ok())
}

/// A PodSlice as the API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSlice {
    /// Its node, which it is named after.
    pub node: String,
    /// UID and version.
    pub object: ObjectRef,
    /// Of what it says; `None` where that means nothing.
    pub digest: Option<u64>,
}

/// Makes digests, by a key that nobody knows: what pods are labelled with is chosen by others. Clones make the same.
#[derive(Clone, Debug, Default)]
pub struct Digester(RandomState);

impl Digester {
    /// Of what a slice says; `None` where it cannot be expressed.
    pub fn digest(&self, spec: &PodSliceSpec) -> Option<u64> {
        serde_json::to_vec(spec).ok().map(|bytes| self.0.hash_one(bytes))
    }

    /// What is kept of an object.
    pub fn seen(&self, slice: &SlimSlice) -> SeenSlice {
        SeenSlice {
            node: objects::name(&slice.metadata),
            object: object_ref(&slice.metadata),
            digest: slice.spec.as_ref().and_then(|spec| self.digest(spec)),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: one spoilt slice that keeps the others from being heard.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_spoilt_slice_is_read_and_is_like_none() {
        let digester = Digester::default();
        let seen = |spec| {
            let object = json!({ "apiVersion": "overlane.io/v1alpha1", "kind": "PodSlice",
                "metadata": { "name": "n1", "uid": "u", "resourceVersion": "7" }, "spec": spec });
            digester.seen(&serde_json::from_value(object).unwrap())
        };
        let bare = seen(json!({}));
        assert_eq!((bare.node.as_str(), bare.digest), ("n1", digester.digest(&PodSliceSpec::default())));
        assert!(bare.digest.is_some());
        assert_eq!(seen(json!({ "pods": [{ "profile": -1, "ips": [] }] })).digest, None);
        let later = seen(json!({ "of": "a later version" }));
        assert_eq!(later.digest, bare.digest, "what this version does not know is no difference");
    }
}
