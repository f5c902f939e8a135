//! `/openapi.json`: the description of the public port, made from code. What all clusters have alike is described in here,
//! one operation a file; the kinds and their commands come from the nodes, when the document is asked for. Everything but
//! [`OpenApi`] is pure.

mod document;
mod kind;
mod operation;
mod parameter;
mod response;
mod schema;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use berth_shared::message::Response as Reply;
use berth_shared::problem::Code;
use bytes::Bytes;
use http::Response;

use super::{Body, answer, problem::Problem};
use crate::forward::Forward;
use crate::nodes::Nodes;

/// How long a node may take to say its kinds when there is a document from before to give instead.
const REFRESH_TIME_MAX: Duration = Duration::from_secs(1);

/// The document as it was last put together; there is one per gateway.
#[derive(Debug, Default)]
pub(crate) struct OpenApi(ArcSwapOption<Document>);

#[derive(Debug)]
struct Document {
    /// What nodes said that it was made of.
    kinds: Bytes,
    json: Bytes,
}

impl OpenApi {
    /// The document, with the kinds that nodes serve now or, while none answers, those that they served last.
    pub(crate) async fn answer<N: Nodes>(
        &self,
        forward: &Forward<N>,
        deadline: Duration,
    ) -> Result<Response<Body>, Problem> {
        let last = self.0.load_full();
        let time = if last.is_some() { deadline.min(REFRESH_TIME_MAX) } else { deadline };
        let composed = forward.kinds(time, |_, reply| match reply {
            Reply::Kinds { json } => match &last {
                Some(last) if last.kinds == json => Some(last.clone()),
                _ => compose(json),
            },
            _ => None,
        });
        match (composed.await, last) {
            (Ok(Some(document)), _) => {
                self.0.store(Some(document.clone()));
                Ok(answer::json_response(document.json.clone()))
            }
            (_, Some(last)) => Ok(answer::json_response(last.json.clone())),
            (Ok(None), None) => Err(Problem::new(Code::Unavailable, super::UNFITTING)),
            (Err(_), None) => {
                Err(Problem::new(Code::Unavailable, "no node has said yet which kinds there are; try again"))
            }
        }
    }
}

fn compose(kinds: &[u8]) -> Option<Arc<Document>> {
    match document::compose(kinds) {
        Ok(json) => Some(Arc::new(Document { kinds: Bytes::copy_from_slice(kinds), json })),
        Err(error) => {
            tracing::error!(%error, "a node describes its kinds in a way that is not understood");
            None
        }
    }
}

#[cfg(test)]
mod tests;
