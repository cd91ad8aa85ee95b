//! Who may see and change what.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use subtle::ConstantTimeEq as _;

use super::Shared;

/// A token that is shorter could be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Who may see and change what. Without a token everybody may see, and nobody may change anything.
pub(crate) struct Access {
    token: Option<String>,
    operate: bool,
    /// Nobody else than this machine can connect.
    loopback: bool,
}

impl Access {
    /// The access that was asked for, or what is wrong with it.
    pub(super) fn new(
        address: SocketAddr,
        token: Option<String>,
        operate: Option<bool>,
    ) -> Result<Self, String> {
        if token.is_none() && operate == Some(true) {
            return Err(
                "\"operate\" lets whoever connects change things, which needs a token: set \
                 `OUTBOX_HTTP_TOKEN` or `--http-token-file`"
                    .to_owned(),
            );
        }
        Ok(Self {
            operate: operate.unwrap_or(token.is_some()),
            token,
            loopback: address.ip().is_loopback(),
        })
    }

    /// Whether everybody who can connect may see keys and errors.
    pub(super) fn is_open(&self) -> bool {
        self.token.is_none() && !self.loopback
    }

    pub(super) fn may_see(&self, headers: &HeaderMap) -> bool {
        self.token
            .as_deref()
            .is_none_or(|token| has(headers, token))
    }

    pub(super) fn may_operate(&self, headers: &HeaderMap) -> bool {
        let has_token = || {
            self.token
                .as_deref()
                .is_some_and(|token| has(headers, token))
        };
        self.operate && has_token()
    }

    pub(super) fn allows_changes(&self) -> bool {
        self.operate
    }
}

/// A token as it was given.
pub(super) fn token(text: &str) -> Result<String, String> {
    let token = text.trim();
    // What a header can hold.
    let possible = token.bytes().all(|byte| byte.is_ascii_graphic());
    match possible && token.len() >= SHORTEST_TOKEN {
        true => Ok(token.to_owned()),
        false => Err(format!(
            "at least {SHORTEST_TOKEN} characters are expected, without spaces, as `openssl rand -hex 32` \
             prints them"
        )),
    }
}

/// In a time that does not tell how much of it is right. Never from a cookie, which browsers add to the
/// requests of other sites too.
fn has(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| bool::from(given.ct_eq(token.as_bytes())))
}

/// What is said to whoever may not.
pub(super) fn refused() -> Response {
    let text = "send the token: Authorization: Bearer …\n";
    let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
    (StatusCode::UNAUTHORIZED, challenge, text).into_response()
}

/// Lets a browser do nothing with an answer but show it. And on a loopback address, refuses requests for
/// the names of other sites: their owners may let such a name stand for this machine.
pub(super) async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let mut response = match shared.access.loopback && !is_local(host) {
        true => {
            let text = "this address is called by another name; use 127.0.0.1 or localhost\n";
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    response
}

/// Whether a `Host` names this machine by itself.
fn is_local(host: &str) -> bool {
    let name = match host.parse::<SocketAddr>() {
        Ok(address) => return address.ip().is_loopback(),
        Err(_) => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let ip: Result<IpAddr, _> = name.parse();
    ip.map_or(name.eq_ignore_ascii_case("localhost"), |ip| {
        ip.is_loopback()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_few_names() {
        for host in [
            "localhost",
            "localhost:80",
            "127.0.0.1:80",
            "127.0.0.1",
            "[::1]:80",
            "LOCALHOST",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com:80",
            "10.0.0.1",
            "127.0.0.1.nip.io:80",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn changes_need_a_token_whatever_the_address() {
        let anywhere = SocketAddr::from(([0, 0, 0, 0], 80));
        let here = SocketAddr::from(([127, 0, 0, 1], 80));
        for address in [anywhere, here] {
            assert!(Access::new(address, None, Some(true)).is_err());
            let access = Access::new(address, None, None).map(|a| a.allows_changes());
            assert_eq!(access, Ok(false));
            let token = Some("0123456789abcdef".to_owned());
            let access = Access::new(address, token.clone(), None).map(|a| a.allows_changes());
            assert_eq!(access, Ok(true));
            let access = Access::new(address, token, Some(false)).map(|a| a.allows_changes());
            assert_eq!(access, Ok(false));
        }
    }

    #[test]
    fn tokens_are_long() {
        assert_eq!(
            token("0123456789abcdef\n"),
            Ok("0123456789abcdef".to_owned())
        );
        for text in [
            "",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789abcd\u{e4}\u{e4}",
        ] {
            assert!(token(text).is_err(), "{text}");
        }
    }
}
