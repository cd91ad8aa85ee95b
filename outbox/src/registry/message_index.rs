//! Which message of a `.proto` file is meant, as Confluent's format writes it.

use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto};

use crate::BoxError;

/// The number of indexes and the indexes, of which each is the place of a message in the one that
/// contains it; as varints in zigzag form. The first message of a file, which is the most common, is
/// one zero.
pub(super) fn of(proto: &str, full_name: &str) -> Result<Vec<u8>, BoxError> {
    let file = protox_parse::parse("schema.proto", proto)
        .map_err(|error| format!("the text in `PROTO` is no valid .proto file: {error}"))?;
    let missing = || format!("the .proto file has no message `{full_name}`");
    let name = match file.package() {
        "" => Some(full_name),
        package => full_name
            .strip_prefix(package)
            .and_then(|name| name.strip_prefix('.')),
    };
    let mut indexes = Vec::new();
    let (mut messages, mut fields) = (file.message_type.as_slice(), file.extension.as_slice());
    for name in name.ok_or_else(missing)?.split('.') {
        let mut declared = messages.iter().filter(|m| is_declared(m, fields));
        let (index, message) = (0_u64..)
            .zip(&mut declared)
            .find(|(_, message)| message.name() == name)
            .ok_or_else(missing)?;
        indexes.push(index);
        (messages, fields) = (&message.nested_type, &message.field);
    }
    if indexes == [0] {
        return Ok(vec![0]);
    }
    let mut bytes = Vec::new();
    let count = indexes.len() as u64;
    for number in std::iter::once(count).chain(indexes) {
        // The zigzag form of a number that is not negative is its double.
        write_varint(number * 2, &mut bytes);
    }
    Ok(bytes)
}

/// Whether a message stands in the file. Those that Protobuf makes of maps and groups don't count.
fn is_declared(message: &DescriptorProto, fields: &[FieldDescriptorProto]) -> bool {
    let is_map_entry = message.options.as_ref().is_some_and(|o| o.map_entry());
    let mut groups = fields.iter().filter(|field| field.r#type() == Type::Group);
    let is_group = groups.any(|f| f.type_name().rsplit('.').next() == Some(message.name()));
    !is_map_entry && !is_group
}

fn write_varint(mut number: u64, bytes: &mut Vec<u8>) {
    while let low @ 0x80.. = number {
        bytes.push((low & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = r#"
        syntax = "proto3";
        package shop.v1;
        import "google/protobuf/timestamp.proto";

        // The first message.
        message First {
            map<string, uint64> prices = 1;
            google.protobuf.Timestamp at = 2;
            message Inner { message Innermost {} }
        }
        enum Kind { KIND_UNSPECIFIED = 0; }
        message Second { message A {} message B {} }
    "#;

    #[test]
    fn indexes() {
        for (name, expected) in [
            ("shop.v1.First", &[0][..]),
            ("shop.v1.Second", &[2, 2]),
            // The map's entry comes before it, and does not count.
            ("shop.v1.First.Inner", &[4, 0, 0]),
            ("shop.v1.First.Inner.Innermost", &[6, 0, 0, 0]),
            ("shop.v1.Second.B", &[4, 2, 2]),
        ] {
            assert_eq!(of(PROTO, name).unwrap(), expected, "{name}");
        }
        let without_package = "syntax = \"proto3\"; message A {} message B {}";
        assert_eq!(of(without_package, "B").unwrap(), [2, 2]);
        let groups = "message A { optional group G = 1 {} message B {} }";
        assert_eq!(of(groups, "A.B").unwrap(), [4, 0, 0]);
    }

    #[test]
    fn large_indexes_take_more_bytes() {
        let messages: String = (0..=64).map(|n| format!("message M{n} {{}}")).collect();
        assert_eq!(of(&messages, "M63").unwrap(), [2, 126]);
        assert_eq!(of(&messages, "M64").unwrap(), [2, 0x80, 1]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        for name in [
            "Third",
            "shop.v1.Third",
            "shop.First",
            "shop.v1",
            "shop.v1First",
            "",
        ] {
            let error = of(PROTO, name).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
        let error = of("message {", "A").unwrap_err().to_string();
        assert!(error.contains("PROTO"), "{error}");
    }
}
