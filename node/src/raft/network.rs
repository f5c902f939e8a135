//! The network of groups that have one voter: there is no other member to talk to, and saying so is all it does.

use std::future::Future;
use std::marker::PhantomData;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::{Member, Runtime, SnapshotHandle, Types};

#[derive(Debug)]
pub(super) struct NoPeers<R>(PhantomData<R>);

impl<R> Default for NoPeers<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

fn unreachable<R: Runtime>() -> Unreachable<Types<R>> {
    Unreachable::new(&AnyError::error("a group of one voter has no peers"))
}

impl<R: Runtime> RaftNetworkFactory<Types<R>> for NoPeers<R> {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _member: &Member) -> Self {
        Self::default()
    }
}

impl<R: Runtime> RaftNetworkV2<Types<R>> for NoPeers<R> {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        Err(unreachable().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        Err(unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<Types<R>>,
        _snapshot: SnapshotOf<Types<R>, SnapshotHandle>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        Err(unreachable().into())
    }
}
