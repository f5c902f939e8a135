//! Counters, gauges and histograms of one part of a process, rendered as Prometheus text. The instruments are
//! OpenTelemetry's; counters and gauges are single atomics that are looked at when somebody asks for the text, so that
//! counting costs one relaxed addition.
//!
//! A label takes only values from a small set known beforehand (kind, command, outcome, shard), never an entity id, an
//! idempotency key or anything else a client makes up: every new value is a new time series, for ever.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use super::Error;

/// Bucket bounds for latencies, in seconds: dense where an answer from memory or one disk flush lies, up to the longest
/// deadline.
pub const LATENCY_SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_8, 0.001_5, 0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 30.0,
];

/// Bucket bounds for numbers of things, such as records per commit.
pub const SIZE_COUNTS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16_384.0];

/// The metrics of one part of a process: a node, or a gateway. Cheap to clone. The name in the code is the name on the
/// page; a counter's ends in `_total` and a unit is spelt out (`_seconds`, `_bytes`). Asking again for the same name and
/// labels gives the same instrument.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    meter: Meter,
    /// Keeps the meter alive and is asked for nothing else.
    _provider: SdkMeterProvider,
    counters: Mutex<HashMap<&'static str, Series<Arc<AtomicU64>>>>,
    gauges: Mutex<HashMap<&'static str, Series<Reading>>>,
    histograms: Mutex<HashMap<&'static str, opentelemetry::metrics::Histogram<f64>>>,
}

/// The time series of one name, by their labels. Bounded by what the code registers.
type Series<T> = Arc<Mutex<Vec<(Vec<KeyValue>, T)>>>;

enum Reading {
    Cell(Arc<AtomicI64>),
    Function(Box<dyn Fn() -> f64 + Send + Sync>),
}

/// Goes up only.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// Goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

/// Counts values by size.
#[derive(Clone)]
pub struct Histogram {
    instrument: opentelemetry::metrics::Histogram<f64>,
    labels: Arc<[KeyValue]>,
}

impl Metrics {
    /// `constant_labels` stand on every line, such as `("role", "node")` and `("instance", "…")`; they tell the parts of one
    /// process apart.
    pub fn new(constant_labels: &[(&str, &str)]) -> Result<Self, Error> {
        let failed = |error: &dyn fmt::Display| Error::Metrics(error.to_string());
        let labels = constant_labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let registry = Registry::new_custom(None, Some(labels)).map_err(|error| failed(&error))?;
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .without_units()
            .without_counter_suffixes()
            .scope_info_enabled(false)
            .build()
            .map_err(|error| failed(&error))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("berth");
        let inner = Inner {
            registry,
            meter,
            _provider: provider,
            counters: Mutex::default(),
            gauges: Mutex::default(),
            histograms: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// `help` is one sentence; the first one given for a name stays.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        debug_assert!(name.ends_with("_total"), "{name}");
        let mut counters = self.inner.counters.lock();
        let series = counters.entry(name).or_insert_with(|| {
            let series: Series<Arc<AtomicU64>> = Series::default();
            let seen = series.clone();
            let look = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
                for (labels, cell) in seen.lock().iter() {
                    observer.observe(cell.load(Ordering::Relaxed), labels);
                }
            };
            // The handle is only a token: the provider keeps the instrument.
            let _ = self.inner.meter.u64_observable_counter(name).with_description(help).with_callback(look).build();
            series
        });
        let labels = key_values(labels);
        let mut series = series.lock();
        if let Some((_, cell)) = series.iter().find(|(known, _)| *known == labels) {
            return Counter(cell.clone());
        }
        let cell = Arc::default();
        series.push((labels, Arc::clone(&cell)));
        Counter(cell)
    }

    /// A gauge that the code sets.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        let labels = key_values(labels);
        let series = self.gauge_series(name, help);
        let mut series = series.lock();
        for (known, reading) in series.iter() {
            if let (true, Reading::Cell(cell)) = (*known == labels, reading) {
                return Gauge(cell.clone());
            }
        }
        let cell = Arc::default();
        series.push((labels, Reading::Cell(Arc::clone(&cell))));
        Gauge(cell)
    }

    /// A gauge that is read when somebody asks; `read` must be quick and must not wait. Replaces an earlier one of the same
    /// name and labels.
    pub fn observed_gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        let labels = key_values(labels);
        let series = self.gauge_series(name, help);
        let mut series = series.lock();
        series.retain(|(known, _)| *known != labels);
        series.push((labels, Reading::Function(Box::new(read))));
    }

    fn gauge_series(&self, name: &'static str, help: &'static str) -> Series<Reading> {
        let mut gauges = self.inner.gauges.lock();
        let series = gauges.entry(name).or_insert_with(|| {
            let series: Series<Reading> = Series::default();
            let seen = series.clone();
            let look = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
                for (labels, reading) in seen.lock().iter() {
                    let value = match reading {
                        Reading::Cell(cell) => cell.load(Ordering::Relaxed) as f64,
                        Reading::Function(read) => read(),
                    };
                    observer.observe(value, labels);
                }
            };
            let _ = self.inner.meter.f64_observable_gauge(name).with_description(help).with_callback(look).build();
            series
        });
        series.clone()
    }

    /// `bounds` are the upper bounds of the buckets, ascending, such as [`LATENCY_SECONDS`]; the first ones given for a name
    /// stay.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &[f64],
        labels: &[(&'static str, &str)],
    ) -> Histogram {
        let mut histograms = self.inner.histograms.lock();
        let instrument = histograms.entry(name).or_insert_with(|| {
            let builder = self.inner.meter.f64_histogram(name).with_description(help);
            builder.with_boundaries(bounds.to_vec()).build()
        });
        Histogram { instrument: instrument.clone(), labels: key_values(labels).into() }
    }

    /// The page for `GET /metrics`, with content type [`Metrics::CONTENT_TYPE`].
    pub fn render(&self) -> Result<String, Error> {
        Self::render_together(std::slice::from_ref(self))
    }

    /// One page for several parts of a process, with every name explained once.
    pub fn render_together(parts: &[Self]) -> Result<String, Error> {
        let mut families: Vec<MetricFamily> = Vec::new();
        for mut family in parts.iter().flat_map(|part| part.inner.registry.gather()) {
            match families.iter_mut().find(|known| known.name() == family.name()) {
                Some(known) => known.mut_metric().extend(family.take_metric()),
                None => families.push(family),
            }
        }
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families).map_err(|error| Error::Metrics(error.to_string()))
    }

    /// The media type of what [`Metrics::render`] gives.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";
}

/// In the order of their names, so that the same labels in another order are the same time series.
fn key_values(labels: &[(&'static str, &str)]) -> Vec<KeyValue> {
    let mut labels: Vec<_> = labels.iter().map(|(name, value)| KeyValue::new(*name, (*value).to_owned())).collect();
    labels.sort_by(|a, b| a.key.cmp(&b.key));
    labels
}

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Histogram {
    pub fn record(&self, value: f64) {
        self.instrument.record(value, &self.labels);
    }

    /// In seconds.
    pub fn record_duration(&self, duration: Duration) {
        self.record(duration.as_secs_f64());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Histogram({:?})", self.labels)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn part(instance: &str) -> Metrics {
        Metrics::new(&[("instance", instance)]).unwrap()
    }

    /// Checks a page by the rules of the text format: one HELP and one TYPE before the lines of a name, lines of a name
    /// together, no line twice, labels quoted, values numbers. Gives the lines by their name and labels.
    fn check(page: &str) -> HashMap<String, String> {
        let mut lines = HashMap::new();
        let mut finished = HashSet::new();
        let mut current = String::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let (what, rest) = rest.split_once(' ').unwrap();
                let (name, rest) = rest.split_once(' ').unwrap();
                if what == "HELP" {
                    assert!(finished.insert(name.to_owned()), "{name} is explained twice");
                    name.clone_into(&mut current);
                } else {
                    assert_eq!((what, name), ("TYPE", current.as_str()));
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap();
            let of_name = ["", "_bucket", "_sum", "_count"].iter().any(|end| name == format!("{current}{end}"));
            assert!(of_name, "{line} stands under {current}");
            for label in labels.strip_suffix('}').unwrap().split("\",") {
                let (label, value) = label.split_once("=\"").unwrap();
                assert!(label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
                assert!(!value.contains('\n'), "{line}");
            }
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(lines.insert(series.to_owned(), value.to_owned()).is_none(), "{series} stands there twice");
        }
        lines
    }

    #[test]
    fn the_page_is_valid_and_shows_what_was_counted() {
        let metrics = part("a");
        let ok = metrics.counter("berth_commands_total", "Commands run.", &[("outcome", "ok"), ("kind", "cart")]);
        let bad =
            metrics.counter("berth_commands_total", "Commands run.", &[("kind", "cart"), ("outcome", "re\"\\\n")]);
        ok.add(41);
        ok.increment();
        bad.increment();
        metrics.gauge("berth_residents", "Entities in memory.", &[]).set(-3);
        metrics.observed_gauge("berth_resident_bytes", "Bytes in memory.", &[], || 0.5);
        let latency = metrics.histogram("berth_latency_seconds", "Time taken.", &LATENCY_SECONDS, &[("kind", "cart")]);
        latency.record_duration(Duration::from_millis(2));
        latency.record_duration(Duration::from_mins(1));

        let lines = check(&metrics.render().unwrap());
        assert_eq!(lines[r#"berth_commands_total{kind="cart",outcome="ok",instance="a"}"#], "42");
        assert_eq!(lines[r#"berth_commands_total{kind="cart",outcome="re\"\\\n",instance="a"}"#], "1");
        assert_eq!(lines[r#"berth_residents{instance="a"}"#], "-3");
        assert_eq!(lines[r#"berth_resident_bytes{instance="a"}"#], "0.5");
        assert_eq!(lines[r#"berth_latency_seconds_bucket{kind="cart",instance="a",le="0.0015"}"#], "0");
        assert_eq!(lines[r#"berth_latency_seconds_bucket{kind="cart",instance="a",le="0.003"}"#], "1");
        assert_eq!(lines[r#"berth_latency_seconds_bucket{kind="cart",instance="a",le="+Inf"}"#], "2");
        assert_eq!(lines[r#"berth_latency_seconds_count{kind="cart",instance="a"}"#], "2");
        assert_eq!(lines[r#"berth_latency_seconds_sum{kind="cart",instance="a"}"#], "60.002");
    }

    #[test]
    fn the_same_name_and_labels_are_the_same_instrument() {
        let metrics = part("a");
        metrics.counter("berth_x_total", "X.", &[("a", "1"), ("b", "2")]).add(2);
        metrics.counter("berth_x_total", "X.", &[("b", "2"), ("a", "1")]).add(3);
        metrics.gauge("berth_y", "Y.", &[]).add(2);
        metrics.gauge("berth_y", "Y.", &[]).add(3);
        let lines = check(&metrics.render().unwrap());
        assert_eq!(lines[r#"berth_x_total{a="1",b="2",instance="a"}"#], "5");
        assert_eq!(lines[r#"berth_y{instance="a"}"#], "5");
    }

    #[test]
    fn parts_of_one_process_do_not_mix() {
        let (a, b) = (part("a"), part("b"));
        a.counter("berth_x_total", "X.", &[]).add(1);
        b.counter("berth_x_total", "X.", &[]).add(2);
        a.gauge("berth_only_a", "Y.", &[]).set(7);
        assert!(!a.render().unwrap().contains("\"b\""));
        let lines = check(&Metrics::render_together(&[a, b]).unwrap());
        assert_eq!(lines[r#"berth_x_total{instance="a"}"#], "1");
        assert_eq!(lines[r#"berth_x_total{instance="b"}"#], "2");
        assert_eq!(lines[r#"berth_only_a{instance="a"}"#], "7");
    }

    #[test]
    fn many_threads_lose_no_count() {
        let metrics = part("a");
        let counter = metrics.counter("berth_x_total", "X.", &[]);
        #[expect(clippy::disallowed_methods, reason = "it is about real threads")]
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.increment()));
            }
        });
        assert_eq!(check(&metrics.render().unwrap())[r#"berth_x_total{instance="a"}"#], "40000");
    }
}
