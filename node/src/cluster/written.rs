//! How ids stand in JSON: as the hexadecimal text that logs and messages show, because tools round numbers of 64 bits and
//! more. Between nodes, where the encoding is binary, they are numbers. For `#[serde(with = …)]`.

use std::num::ParseIntError;

use berth_shared::ids::NodeId;
use berth_shared::report::Member;
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A member as it stands in JSON.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Member")]
pub(super) struct Row {
    node: String,
    address: String,
}

impl From<&Member> for Row {
    fn from(member: &Member) -> Self {
        Self { node: member.node.to_string(), address: member.address.clone() }
    }
}

impl Row {
    fn read(self) -> Result<Member, ParseIntError> {
        Ok(Member { node: NodeId(u64::from_str_radix(&self.node, 16)?), address: self.address })
    }
}

pub(super) mod node {
    use super::{Deserialize, Deserializer, Error, NodeId, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this form")]
    pub(in crate::cluster) fn serialize<S: Serializer>(node: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(node) } else { node.serialize(serializer) }
    }

    pub(in crate::cluster) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        if !deserializer.is_human_readable() {
            return NodeId::deserialize(deserializer);
        }
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(NodeId).map_err(Error::custom)
    }
}

pub(super) mod cluster {
    use berth_shared::ids::ClusterId;

    use super::{Deserialize, Deserializer, Error, Serialize, Serializer};

    pub(in crate::cluster) fn serialize<S: Serializer>(cluster: &ClusterId, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(cluster) } else { cluster.serialize(serializer) }
    }

    pub(in crate::cluster) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClusterId, D::Error> {
        if !deserializer.is_human_readable() {
            return ClusterId::deserialize(deserializer);
        }
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(ClusterId).map_err(Error::custom)
    }
}

/// The same for a cluster that may not be known.
pub(super) mod optional_cluster {
    use berth_shared::ids::ClusterId;

    use super::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Written(#[serde(with = "super::cluster")] ClusterId);

    #[expect(clippy::ref_option, reason = "serde asks for this form")]
    pub(in crate::cluster) fn serialize<S: Serializer>(
        cluster: &Option<ClusterId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        cluster.map(Written).serialize(serializer)
    }

    pub(in crate::cluster) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ClusterId>, D::Error> {
        Ok(Option::<Written>::deserialize(deserializer)?.map(|written| written.0))
    }
}

pub(super) mod members {
    use super::{Deserialize, Deserializer, Error, Member, Row, Serialize, Serializer};

    pub(in crate::cluster) fn serialize<S: Serializer>(members: &[Member], serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_seq(members.iter().map(Row::from))
        } else {
            members.serialize(serializer)
        }
    }

    pub(in crate::cluster) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Member>, D::Error> {
        if !deserializer.is_human_readable() {
            return Vec::deserialize(deserializer);
        }
        let rows = Vec::<Row>::deserialize(deserializer)?;
        rows.into_iter().map(|row| row.read().map_err(Error::custom)).collect()
    }
}
