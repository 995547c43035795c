//! The little protobuf that kubectl cannot be talked out of: `kubectl create namespace`, `configmap`, `secret` and the
//! like send it whatever the server says it accepts. Field numbers are those of Kubernetes' `generated.proto`.

use serde_json::{Map, Value, json};

/// Messages and their fields: number, name, type. A type is `text`, `int`, `bool`, `bytes`, `time`, `texts` (a map of
/// texts), `blobs` (a map of bytes), `intOrText` or a message; a star means a list.
const MESSAGES: [(&str, &str); 12] = [
    ("Namespace", "1 metadata ObjectMeta 2 spec NamespaceSpec"),
    ("NamespaceSpec", "1 finalizers text*"),
    ("ConfigMap", "1 metadata ObjectMeta 2 data texts 3 binaryData blobs 4 immutable bool"),
    ("Secret", "1 metadata ObjectMeta 2 data blobs 3 type text 4 stringData texts 5 immutable bool"),
    ("ServiceAccount", "1 metadata ObjectMeta"),
    ("Service", "1 metadata ObjectMeta 2 spec ServiceSpec"),
    (
        "ServiceSpec",
        "1 ports ServicePort* 2 selector texts 3 clusterIP text 4 type text 7 sessionAffinity text 10 externalName text",
    ),
    ("ServicePort", "1 name text 2 protocol text 3 port int 4 targetPort intOrText 5 nodePort int"),
    ("Eviction", "1 metadata ObjectMeta 2 deleteOptions DeleteOptions"),
    (
        "DeleteOptions",
        "1 gracePeriodSeconds int 2 preconditions Preconditions 3 orphanDependents bool 4 propagationPolicy text \
         5 dryRun text*",
    ),
    ("Preconditions", "1 uid text 2 resourceVersion text"),
    (
        "ObjectMeta",
        "1 name text 2 generateName text 3 namespace text 5 uid text 6 resourceVersion text 11 labels texts \
         12 annotations texts 14 finalizers text*",
    ),
];

/// Before every object that Kubernetes encodes.
const MAGIC: &[u8] = b"k8s\0";

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The object in the bytes; nothing if they are garbage, or a kind that is not known here.
pub fn decode(bytes: &[u8]) -> Option<Value> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, field) in fields(bytes.strip_prefix(MAGIC)?)? {
        match (number, field) {
            (1, Field::Bytes(types)) => {
                for (number, field) in fields(types)? {
                    match (number, field) {
                        (1, Field::Bytes(text)) => api_version = utf8(text)?,
                        (2, Field::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let mut object = message(raw, &kind, 0)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Some(Value::Object(object))
}

fn utf8(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn message(bytes: &[u8], name: &str, depth: u8) -> Option<Map<String, Value>> {
    let (_, known) = MESSAGES.iter().find(|(message, _)| *message == name)?;
    let known: Vec<&str> = known.split_whitespace().collect();
    let mut object = Map::new();
    for (number, field) in fields(bytes)? {
        let number = number.to_string();
        let Some([_, name, kind]) = known.chunks_exact(3).find(|entry| entry[0] == number) else {
            continue;
        };
        let list = kind.strip_suffix('*');
        let value = value(&field, list.unwrap_or(kind), depth)?;
        let entry = object.entry(*name).or_insert(Value::Null);
        match (entry, value) {
            (Value::Object(found), Value::Object(more)) => found.extend(more),
            (Value::Array(found), value) => found.push(value),
            (entry, value) => *entry = if list.is_some() { json!([value]) } else { value },
        }
    }
    // Go writes empty texts where it means absent ones.
    object.retain(|_, value| value != "");
    Some(object)
}

fn value(field: &Field<'_>, kind: &str, depth: u8) -> Option<Value> {
    match (field, kind) {
        (Field::Number(number), "int") => Some(json!(*number as i64)),
        (Field::Number(number), "bool") => Some(json!(*number != 0)),
        (Field::Bytes(bytes), "text") => utf8(bytes).map(Value::from),
        (Field::Bytes(bytes), "texts") => pair(bytes, |value| utf8(value).map(Value::from)),
        (Field::Bytes(bytes), "blobs") => pair(bytes, |value| Some(base64(value).into())),
        (Field::Bytes(bytes), "intOrText") => int_or_text(bytes),
        (Field::Bytes(bytes), name) if depth < 8 => message(bytes, name, depth + 1).map(Value::Object),
        _ => None,
    }
}

fn pair(bytes: &[u8], value_of: impl Fn(&[u8]) -> Option<Value>) -> Option<Value> {
    let (mut key, mut value) = (String::new(), value_of(&[])?);
    for (number, field) in fields(bytes)? {
        match (number, field) {
            (1, Field::Bytes(text)) => key = utf8(text)?,
            (2, Field::Bytes(bytes)) => value = value_of(bytes)?,
            _ => {}
        }
    }
    Some(json!({key: value}))
}

fn int_or_text(bytes: &[u8]) -> Option<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for (field, value) in fields(bytes)? {
        match (field, value) {
            (1, Field::Number(kind)) => is_text = kind == 1,
            (2, Field::Number(found)) => number = found as i64,
            (3, Field::Bytes(found)) => text = utf8(found)?,
            _ => {}
        }
    }
    Some(if is_text { json!(text) } else { json!(number) })
}

/// Splits a message into its fields.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            1 => Field::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = varint(&mut bytes)?;
                Field::Bytes(take(&mut bytes, usize::try_from(length).ok()?)?)
            }
            5 => Field::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        found.push((tag >> 3, field));
    }
    Some(found)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Standard base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place) & 63) as usize;
            text.push(if place <= chunk.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    #[test]
    fn a_config_map_as_kubectl_sends_it() {
        let types = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let pair = |key: &[u8], value: &[u8]| [field(1, key), field(2, value)].concat();
        let metadata = [field(1, b"cm"), field(2, b""), field(14, b"x"), field(14, b"y")].concat();
        let raw = [
            field(1, &metadata),
            field(2, &pair(b"a", b"1")),
            field(2, &pair(b"b", b"2")),
            field(3, &pair(b"c", b"hi!?")),
        ];
        let bytes = [MAGIC.to_vec(), field(1, &types), field(2, &raw.concat())].concat();
        let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1", "b": "2"},
            "binaryData": {"c": "aGkhPw=="}, "metadata": {"name": "cm", "finalizers": ["x", "y"]}});
        assert_eq!(decode(&bytes).unwrap(), expected);
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&b""[..], b"k8s", b"k8s\0\xff\xff\xff", b"k8s\0\x0a\x7fx", b"k8s\0\x12\x05ab", b"k8s\0"] {
            assert!(decode(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn base64_pads() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
