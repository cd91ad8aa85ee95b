//! The ids of schemas that are known, for the whole program.
//!
//! They can't belong to a `SchemaRegistry`: an encoder is a type, and has no value to find it in.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// What stands before each payload, by format and type, and by topic.
type Prefixes = HashMap<(TypeId, TypeId), HashMap<String, Arc<[u8]>>>;

static PREFIXES: LazyLock<RwLock<Prefixes>> = LazyLock::new(RwLock::default);

/// Types with lifetimes have no `TypeId` of their own, but one schema for all lifetimes.
fn key<T: ?Sized, E>() -> (TypeId, TypeId) {
    (typeid::of::<E>(), typeid::of::<T>())
}

pub(super) fn insert<T: ?Sized, E>(topic: &str, prefix: Vec<u8>) {
    // An entry is complete before it is put in, so a panic elsewhere leaves nothing half done.
    let mut prefixes = PREFIXES.write().unwrap_or_else(PoisonError::into_inner);
    let topics = prefixes.entry(key::<T, E>()).or_default();
    topics.insert(topic.to_owned(), prefix.into());
}

pub(super) fn get<T: ?Sized, E>(topic: &str) -> Option<Arc<[u8]>> {
    let prefixes = PREFIXES.read().unwrap_or_else(PoisonError::into_inner);
    prefixes.get(&key::<T, E>())?.get(topic).cloned()
}
