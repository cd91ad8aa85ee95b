//! The trace in which a message is published goes along with it, in the headers that W3C Trace Context
//! names: so what a consumer does can be seen as a part of it.

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;

use crate::Message;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// The message with the current context, unless it has one already, or there is none. It never grows beyond
/// its limit by that: better it is delivered without a trace than refused because of one.
pub(crate) fn carry(message: Message, max_bytes: usize) -> Message {
    let add = |message: Message, name: &str, value: &str| {
        let bytes = message.bytes() + name.len() + value.len();
        match bytes > max_bytes {
            true => message,
            false => message.with_header(name, value),
        }
    };
    if message.headers().first(PARENT).is_some() {
        return message;
    }
    let context = Context::current();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return message;
    }
    let parent = format!(
        "00-{}-{}-{:02x}",
        span.trace_id(),
        span.span_id(),
        span.trace_flags()
    );
    let message = add(message, PARENT, &parent);
    match span.trace_state().header() {
        // Which says nothing without the other.
        _ if message.headers().first(PARENT).is_none() => message,
        state if state.is_empty() => message,
        state => add(message, STATE, &state),
    }
}
