//! The command `recover`: says which shards of a node have lost their quorum for good and what would be lost with a recovery,
//! and recovers them when that is confirmed word for word. It asks the node's admin port; what it says is made by pure
//! functions.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use berth_shared::recovery_view::{Confirmation, LostShard, RecoveredView, RecoveryView};
use berth_shared::seam::Seams;
use clap::Args;

use crate::admin_port::{Access, Address, Error, ask};

const HINT: &str = "Give the admin port of a node with --node URL";
/// Something has lost its quorum, and nothing was done.
const LOST: u8 = 3;

/// Lists the shards of a node that have lost their quorum for good, and recovers them from what the node has.
///
/// Only for when a majority of a shard's disks is gone. Ends with 0 when nothing has lost its quorum or all was recovered, with
/// 3 when something has and nothing was done, and with 1 when it was refused or did not work.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// The admin port of the node that is left.
    #[arg(long, value_name = "URL")]
    node: Address,
    #[command(flatten)]
    access: Access,
    /// Only this shard: a number, or `system`.
    #[arg(long, value_name = "SHARD", value_parser = shard)]
    shard: Option<String>,
    /// Recover, and lose what these words name. Without it, what would be lost is listed, and the words with it.
    #[arg(long, value_name = "WORDS")]
    confirm: Option<String>,
}

fn shard(text: &str) -> Result<String, String> {
    let is_shard = text == "system" || text.parse::<u16>().is_ok();
    is_shard.then(|| text.to_owned()).ok_or_else(|| "a shard is a number, or `system`".to_owned())
}

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (seams, program) = (Seams::system(), std::env::args().next().unwrap_or_else(|| "berth".to_owned()));
    let Arguments { node, access, shard, confirm } = arguments;
    let mut view: RecoveryView =
        ask(&seams, node, access, HINT, async |asking| asking.get("/v1/recovery").await).await?;
    if let Some(shard) = shard {
        view.shards.retain(|lost| lost.shard == *shard);
    }
    let Some(confirm) = confirm else {
        say(&listed(&view, &format!("{program} recover --node {node}{access}"), shard.as_deref()));
        return Ok(if view.shards.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LOST) });
    };
    let chosen: Vec<(String, String)> = match shard {
        // The node says what is wrong with them.
        Some(shard) => vec![(shard.clone(), confirm.clone())],
        None if words(&view).as_ref() == Some(confirm) => {
            recoverable(&view).map(|(lost, words)| (lost.shard.clone(), words.to_owned())).collect()
        }
        None => match words(&view) {
            Some(words) => {
                anyhow::bail!("nothing is done, because these are not the words for what is there now: {words}")
            }
            None => anyhow::bail!("nothing is done, because there is nothing to recover on this node"),
        },
    };
    let (mut failed, count) = (0, chosen.len());
    for (shard, words) in chosen {
        match recover(&seams, node, access, &shard, words).await {
            Ok(recovered) => say(&told(&recovered)),
            Err(error) => {
                failed += 1;
                say(&format!("shard {shard}: {error}\n"));
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {count} were not recovered");
    Ok(ExitCode::SUCCESS)
}

async fn recover(
    seams: &Seams,
    node: &Address,
    access: &Access,
    shard: &str,
    confirm: String,
) -> Result<RecoveredView, Error> {
    // Text always serializes.
    let body = serde_json::to_vec(&Confirmation { confirm }).unwrap_or_default();
    ask(seams, node, access, HINT, async |asking| asking.post(&format!("/v1/recovery/{shard}"), body).await).await
}

fn recoverable(view: &RecoveryView) -> impl Iterator<Item = (&LostShard, &str)> {
    view.shards.iter().filter_map(|lost| Some((lost, lost.confirm.as_deref()?)))
}

/// What confirms all that can be recovered on the node as it is now, if that is anything. What stands at the end fits the words
/// of every single one.
fn words(view: &RecoveryView) -> Option<String> {
    let count = recoverable(view).count();
    let sum = recoverable(view).fold(FNV_BASIS, |sum, (_, words)| fnv(fnv(sum, words.as_bytes()), b"\n"));
    let what = if count == 1 { "the shard" } else { "all the shards" };
    (count > 0).then(|| format!("what {what} listed on node {} had later is lost {sum:016x}", view.node))
}

/// FNV-1a with 64 bits.
fn fnv(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// What is lost, and how to recover. `command` is this program without what confirms.
fn listed(view: &RecoveryView, command: &str, only: Option<&str>) -> String {
    let RecoveryView { node, address, shards, silent } = view;
    let mut out = String::new();
    if shards.is_empty() {
        let what = only.map_or_else(|| "No shard".to_owned(), |shard| format!("No shard {shard}"));
        return format!("{what} on node {node} at {address} has lost its quorum.\n");
    }
    line(&mut out, &format!("Node {node} at {address} has replicas of shards without a quorum:"));
    line(&mut out, "");
    line(
        &mut out,
        &format!(
            "  {:<6}  {:<28}  {:<24}  {:<7}  missing voters",
            "shard", "has entries up to", "last write", "copies"
        ),
    );
    for lost in shards {
        line(&mut out, &row(lost));
    }
    line(&mut out, "");
    for lost in shards {
        if let Some(obstacle) = &lost.obstacle {
            line(&mut out, &format!("  {:<6}  not to be recovered here: {obstacle}", lost.shard));
        }
    }
    if !silent.is_empty() {
        line(&mut out, &format!("These nodes do not answer; what they have is not known: {}", silent.join(", ")));
    }
    let Some(words) = only.map_or_else(|| words(view), |_| shards.first().and_then(|lost| lost.confirm.clone())) else {
        return out;
    };
    line(&mut out, "If the missing nodes may come back with their disks, wait for them: then nothing is lost.");
    line(
        &mut out,
        "A recovery makes this node's replicas the only ones. Whatever the shards have acknowledged after the",
    );
    line(&mut out, "entries above is lost for good, and what the missing nodes have is deleted when they come back.");
    line(&mut out, "");
    line(&mut out, "To recover:");
    let chosen = only.map_or_else(String::new, |shard| format!(" --shard {shard}"));
    line(&mut out, &format!("  {command}{chosen} --confirm \"{words}\""));
    if only.is_none() && recoverable(view).count() > 1 {
        line(&mut out, "or one alone: add --shard to the command that has printed this, for the words.");
    }
    out
}

fn row(lost: &LostShard) -> String {
    let LostShard { shard, last, last_write, voters, missing, others, .. } = lost;
    let entries = format!("{} of term {}", last.index, last.term);
    let written = last_write.as_deref().unwrap_or("none");
    let copies = format!("{} of {}", others.len() + 1, voters.len());
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    format!("  {shard:<6}  {entries:<28}  {written:<24}  {copies:<7}  {}", missing.join(" "))
}

fn told(recovered: &RecoveredView) -> String {
    let RecoveredView { shard, node, incarnation, kept, .. } = recovered;
    let (index, term) = (kept.index, kept.term);
    format!("shard {shard}: goes on after entry {index} of term {term} on node {node}, as incarnation {incarnation}\n")
}

fn line(out: &mut String, text: &str) {
    // A string takes everything.
    let _ = writeln!(out, "{}", text.trim_end());
}

/// Whoever does not read on has seen enough.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use berth_shared::ids::NodeId;
    use berth_shared::recovery_view::{Entry, OtherReplica};

    use super::*;

    fn lost(shard: &str, index: u64) -> LostShard {
        LostShard {
            shard: shard.to_owned(),
            last: Entry { term: 3, index },
            applied_index: index,
            incarnation: 0,
            last_write: Some("2026-01-01T00:00:00.000Z".to_owned()),
            voters: vec![NodeId(1), NodeId(2), NodeId(3)],
            missing: vec![NodeId(2), NodeId(3)],
            others: vec![],
            obstacle: None,
            confirm: Some(format!("what shard {shard} had after {index}")),
        }
    }

    fn view(shards: Vec<LostShard>) -> RecoveryView {
        RecoveryView { node: NodeId(1), address: "a:7400".to_owned(), shards, silent: vec!["b:7400".to_owned()] }
    }

    #[test]
    fn what_is_lost_is_listed_with_the_command_that_recovers_it() {
        let other = OtherReplica {
            node: NodeId(4),
            address: None,
            last: Entry { term: 3, index: 99 },
            incarnation: 0,
            sees_quorum: false,
        };
        let elsewhere = LostShard {
            obstacle: Some("recover it on node 4".to_owned()),
            confirm: None,
            others: vec![other],
            ..lost("7", 5)
        };
        let view = view(vec![lost("system", 12), elsewhere, lost("8", 120)]);
        let text = listed(&view, "berth recover --node http://a:7490", None);
        let words = words(&view).unwrap();
        for part in [
            "  system  12 of term 3                  2026-01-01T00:00:00.000Z  1 of 3   0000000000000002 0000000000000003\n",
            "  7       5 of term 3                   2026-01-01T00:00:00.000Z  2 of 3 ",
            "  7       not to be recovered here: recover it on node 4\n",
            "do not answer; what they have is not known: b:7400\n",
            &format!("\n  berth recover --node http://a:7490 --confirm \"{words}\"\n"),
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let one = RecoveryView { shards: vec![lost("8", 120)], ..view.clone() };
        let text = listed(&one, "berth recover --node http://a:7490", Some("8"));
        assert!(
            text.ends_with(
                "\n  berth recover --node http://a:7490 --shard 8 --confirm \"what shard 8 had after 120\"\n"
            ),
            "{text}"
        );
        let none = RecoveryView { shards: vec![], ..view };
        assert_eq!(listed(&none, "", None), "No shard on node 0000000000000001 at a:7400 has lost its quorum.\n");
        assert_eq!(
            listed(&none, "", Some("8")),
            "No shard 8 on node 0000000000000001 at a:7400 has lost its quorum.\n"
        );
    }

    #[test]
    fn the_words_for_all_of_them_fit_one_state_only() {
        let listed = |shards: Vec<LostShard>| words(&view(shards));
        let all = listed(vec![lost("system", 12), lost("8", 120)]);
        assert!(all.as_ref().is_some_and(|words| words.contains("0000000000000001")));
        assert_eq!(all, listed(vec![lost("system", 12), lost("8", 120)]));
        let others = [
            vec![lost("system", 12)],
            vec![lost("system", 13), lost("8", 120)],
            vec![lost("system", 12), lost("9", 120)],
        ];
        assert!(others.into_iter().all(|other| listed(other) != all));
        assert_eq!(listed(vec![LostShard { confirm: None, ..lost("8", 120) }]), None);
    }
}
