//! What URIs consist of (RFC 3986), as far as it can be told without taking them apart.

/// A reference to a URI may be relative: `/shop`.
pub(super) fn check_reference(uri: &str) -> Result<(), &'static str> {
    let mut bytes = uri.bytes();
    while let Some(byte) = bytes.next() {
        let is_legal = match byte {
            b'%' => {
                let mut is_hex = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                is_hex() && is_hex()
            }
            byte => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(&byte),
        };
        if !is_legal {
            return Err("it is no URI reference; what a URI can't contain is written %20");
        }
    }
    Ok(())
}

/// An absolute URI has a scheme and no fragment.
pub(super) fn check_absolute(uri: &str) -> Result<(), &'static str> {
    check_reference(uri)?;
    let scheme = uri.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme {
        Err("it is no absolute URI, as https://shop.example/order is")
    } else if uri.contains('#') {
        Err("an absolute URI has no fragment, the part behind #")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for uri in [
            "/shop",
            "https://shop.example/a?b#c",
            "urn:uuid:1",
            "a%20b",
            "1-555-123",
        ] {
            assert_eq!(check_reference(uri), Ok(()), "{uri}");
        }
        for uri in ["a b", "ä", "a%2", "%zz", "<a>", "a\\b", "{a}", "\""] {
            assert!(check_reference(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn absolute_uris() {
        for uri in ["https://shop.example/a?b", "urn:uuid:1", "a+b-c.d:e"] {
            assert_eq!(check_absolute(uri), Ok(()), "{uri}");
        }
        for uri in ["", "/shop", "://a", "1a:b", "a/b:c", "https://a#b"] {
            assert!(check_absolute(uri).is_err(), "{uri}");
        }
    }
}
