//! The status page. It holds no data itself: a script asks for that, and puts it in as text.

use axum::http::header;
use axum::response::{Html, IntoResponse as _, Response};
use uuid::Uuid;

/// Where the nonce stands in the page.
const NONCE: &str = "{{nonce}}";

/// Nothing but what came with this answer is run or applied.
pub(super) async fn page() -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let html = include_str!("page.html").replace(NONCE, &nonce);
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response()
}
