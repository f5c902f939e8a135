//! The command `status`: what a cluster is doing, in words and bars, once or again and again. It asks the admin port of any
//! gateway or node, as anybody may, and knows nothing else of the cluster; what it says is made by pure functions.

mod client;
mod show;
#[cfg(test)]
mod tests;
mod waiting;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use berth_shared::cluster_view::{ClusterView, GroupView, ShardsView};
use berth_shared::seam::Seams;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin_port::{Access, Address};
use show::{Style, show};

/// Between two looks.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Moves the cursor home; what is written over the last frame need not be cleared first, which would flicker.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K\n";
const CLEAR_BELOW: &str = "\x1b[J";

/// Shows members, shards per node, moves in progress, and what the cluster is waiting for.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// The admin port of any gateway or node of the cluster.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8090")]
    address: Address,
    #[command(flatten)]
    access: Access,
    /// Look again every second, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

/// What a cluster says of itself at one moment.
#[derive(Clone, Debug)]
struct Seen {
    cluster: ClusterView,
    shards: ShardsView,
    /// When, in microseconds since 1970.
    at_micros: u64,
}

impl Seen {
    /// All groups with their names, the system shard last.
    fn groups(&self) -> impl Iterator<Item = (String, &GroupView)> {
        let shards = self.shards.shards.iter().map(|shard| (format!("shard {}", shard.shard), &shard.group));
        shards.chain(self.cluster.system.iter().map(|group| ("system shard".to_owned(), group)))
    }

    /// How long ago something began, where its time can be read.
    fn since(&self, time: Option<&str>) -> Option<Duration> {
        let began = time?.parse::<jiff::Timestamp>().ok()?.as_microsecond();
        // Clocks of two machines differ.
        Some(Duration::from_micros(self.at_micros.saturating_sub(u64::try_from(began).ok()?)))
    }
}

/// Whether a group is where the newest plan wants it; nothing where no plan is known.
fn is_placed(group: &GroupView) -> Option<bool> {
    let planned = group.planned.as_ref()?;
    let has_all = planned.replicas.iter().all(|node| group.replicas.contains(node));
    let is_exact = has_all && group.replicas.len() == planned.replicas.len();
    Some(is_exact && group.owner == Some(planned.owner) && group.learners.is_empty() && !group.joint)
}

pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let seams = Seams::system();
    let style = Style::of(std::io::stdout().is_terminal(), std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()));
    if !arguments.watch {
        let seen = client::look(&seams, &arguments.address, &arguments.access).await?;
        // Whoever does not read on has seen enough.
        let _ = write(&show(&seen, style));
        return Ok(());
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = watch(&seams, arguments, style) => {}
    }
    Ok(())
}

/// Ends when nobody reads any more.
async fn watch(seams: &Seams, arguments: &Arguments, style: Style) {
    loop {
        let frame = match client::look(seams, &arguments.address, &arguments.access).await {
            Ok(seen) => show(&seen, style),
            Err(error) => format!("{error}\n\nTrying again every second.\n"),
        };
        let frame = if style.is_terminal {
            format!("{HOME}{}{CLEAR_BELOW}", frame.replace('\n', CLEAR_LINE))
        } else {
            frame + "\n"
        };
        if write(&frame).is_err() {
            return;
        }
        seams.spawner.sleep(WATCH_PAUSE).await;
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
