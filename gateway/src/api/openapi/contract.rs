//! Which parts of the contract are described. Each is described in a file of its own; what is `false` here is left out of
//! the document, so that it never promises what is not served. Whoever begins to serve a part sets it to `true` and writes
//! `gateway/openapi.json` anew.

/// `DELETE` of an entity.
pub(super) const DELETION: bool = true;
/// Listing the entities of a kind.
pub(super) const LISTING: bool = true;
/// States as of an earlier version or time.
pub(super) const TIME_TRAVEL: bool = true;
/// Reads at any replica: `consistency=session` and `stale`.
pub(super) const REPLICA_READS: bool = true;
/// History pages that wait for the next event.
pub(super) const LONG_POLLS: bool = true;
/// Live history as server-sent events.
pub(super) const LIVE_HISTORY: bool = true;
/// `tracestate`, passed on with the trace.
pub(super) const TRACE_STATE: bool = false;
/// Credentials, and the refusals for want of them.
pub(super) const AUTHENTICATION: bool = true;
