//! Links from the runner's spans to the traces in which messages were published.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::store::StoredMessage;

/// More links of one span would say little, and SDKs keep 128 unless they are told otherwise.
const MOST: usize = 32;

/// Links the span to the traces of the messages, as far as they carry one.
pub(super) fn link(span: &Span, messages: &[StoredMessage]) {
    if span.is_disabled() {
        return;
    }
    let parents = messages.iter().filter_map(|stored| {
        let parent = stored.message.headers().first("traceparent")?;
        parse(std::str::from_utf8(parent).ok()?)
    });
    for parent in parents.take(MOST) {
        span.add_link(parent);
    }
}

/// The form is that of W3C Trace Context: version, trace, span and flags.
fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.trim().split('-');
    let (_version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_trace_is_no_link() {
        let trace = "00-0000000000000000000000000000002a-0000000000000007-01";
        let context = parse(trace).unwrap();
        assert_eq!(context.trace_id(), TraceId::from(42));
        assert_eq!(context.span_id(), SpanId::from(7));
        for text in [
            "",
            "00",
            "00-x-y-01",
            &trace.replace(['2', 'a'], "0"),
            &trace.replace("-01", ""),
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
