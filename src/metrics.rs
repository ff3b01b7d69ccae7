//! What a metrics page and `.stats` show. Names are the reference's, so that its dashboards work.
//!
//! Rooms keep plain counters; they are read when somebody asks.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use cairn_cache::BlockCache;
use cairn_chunk::ChunkStore;
use cairn_env::Env;
use cairn_jobs::Upkeep;
use cairn_meta::StatFs;
use cairn_object::Dials;
use cairn_types::Format;
use cairn_vfs::Vfs;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::Config;

/// In front of every name.
const PREFIX: &str = "juicefs";
/// A kernel page, bytes.
const PAGE_BYTES: u64 = 4096;

/// Metrics of one volume, as text. Cheap to clone.
#[derive(Clone)]
pub struct Exporter {
    registry: Arc<Mutex<Registry>>,
}

/// Who is asked.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) env: Env,
    /// Refreshed now and then: a collector cannot wait.
    pub(crate) usage: Arc<Mutex<Option<StatFs>>>,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) chunks: Arc<ChunkStore>,
    pub(crate) upkeep: Arc<Upkeep>,
    /// Set once the files are there. Weak: the files hold what shows `.stats`.
    pub(crate) vfs: Arc<OnceLock<Weak<Vfs>>>,
}

pub(crate) fn exporter(sources: &Sources, dials: &Dials, format: &Format, config: &Config) -> Exporter {
    let labels = [
        ("vol_name", format.name.clone()),
        ("mp", config.client.mountpoint.display().to_string()),
        ("juicefs_version", crate::presented_version()),
        ("instance", rustix::system::uname().nodename().to_string_lossy().into_owned()),
    ];
    let all = labels.into_iter().map(|(k, v)| (k.into(), v.into()));
    let custom = config.internal.labels.iter().map(|(k, v)| (k.clone().into(), v.clone().into()));
    let mut registry = Registry::with_prefix_and_labels(PREFIX, all.chain(custom));
    dials.metrics.register(&mut registry);
    registry.register_collector(Box::new(Reader { started: sources.env.instant(), sources: sources.clone() }));
    Exporter { registry: Arc::new(Mutex::new(registry)) }
}

impl Exporter {
    /// All metrics in the OpenMetrics text format.
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }

    /// All metrics as `name value` lines: what `.stats` shows.
    pub fn stats_text(&self) -> String {
        short(&self.open_metrics())
    }
}

/// `name{labels} value` to `name value`: values of `method`, `errno` and the like join the name,
/// histograms keep their sum and their count (as `_total`).
fn short(open_metrics: &str) -> String {
    let mut out = String::new();
    for line in open_metrics.lines().filter(|l| !l.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        if name.ends_with("_bucket") {
            continue;
        }
        let name = match name.strip_suffix("_count") {
            Some(histogram) => format!("{histogram}_total"),
            None => name.to_owned(),
        };
        out.push_str(&name);
        for telling in ["method", "errno"] {
            if let Some(value) = label(labels, telling) {
                out.push('_');
                out.push_str(value);
            }
        }
        out.push(' ');
        out.push_str(value);
        out.push('\n');
    }
    out
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.split('"').next())
}

struct Reader {
    started: Instant,
    sources: Sources,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Collector for Reader {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut out = Out(&mut encoder);
        self.process(&mut out)?;
        self.cache(&mut out)?;
        self.data(&mut out)?;
        self.jobs(&mut out)
    }
}

impl Reader {
    fn process(&self, out: &mut Out<'_, '_>) -> std::fmt::Result {
        let usage = rusage();
        out.gauge("cpu_usage", "Accumulated CPU seconds", usage)?;
        out.gauge("memory", "Resident bytes", resident_bytes() as f64)?;
        let up = self.sources.env.instant().duration_since(self.started);
        out.gauge("uptime", "Seconds since the volume was opened", up.as_secs_f64())?;
        if let Some(usage) = *self.sources.usage.lock() {
            out.gauge("used_space", "Bytes used", (usage.total_bytes - usage.avail_bytes) as f64)?;
            out.gauge("total_space", "Bytes in all", usage.total_bytes as f64)?;
            out.gauge("used_inodes", "Inodes used", usage.used_inodes as f64)?;
            out.gauge("total_inodes", "Inodes in all", (usage.used_inodes + usage.avail_inodes) as f64)?;
        }
        let Some(vfs) = self.sources.vfs.get().and_then(Weak::upgrade) else { return Ok(()) };
        out.gauge("fuse_open_handlers", "Open files and directories", vfs.open_handles() as f64)?;
        let (files, bytes) = vfs.dirty();
        out.gauge("dirty_files", "Files with data not yet committed", files as f64)?;
        out.gauge("dirty_bytes", "Bytes not yet committed", bytes as f64)
    }

    fn cache(&self, out: &mut Out<'_, '_>) -> std::fmt::Result {
        let c = self.sources.cache.stats();
        out.gauge("blockcache_blocks", "Cached blocks", (c.disk_blocks + c.memory_blocks) as f64)?;
        out.gauge("blockcache_bytes", "Cached bytes", (c.disk_bytes + c.memory_bytes) as f64)?;
        out.gauge("blockcache_memory_bytes", "Cached bytes in memory", c.memory_bytes as f64)?;
        out.counter("blockcache_hits", "Reads the cache answered", c.memory_hits + c.disk_hits)?;
        out.counter("blockcache_hit_bytes", "Bytes of those", c.memory_hit_bytes + c.disk_hit_bytes)?;
        out.counter("blockcache_miss", "Reads the cache did not answer", c.misses)?;
        out.counter("blockcache_writes", "Blocks written to the cache", c.disk_writes)?;
        out.counter("blockcache_write_bytes", "Bytes of those", c.disk_write_bytes)?;
        out.counter("blockcache_drops", "Blocks the cache had no room for", c.disk_drops)?;
        out.counter("blockcache_evicts", "Blocks evicted", c.evictions)?;
        out.counter("blockcache_damaged", "Cached blocks whose checksum failed", c.damaged)?;
        out.counter("blockcache_errors", "Failed calls to a cache directory", c.disk_errors)
    }

    fn data(&self, out: &mut Out<'_, '_>) -> std::fmt::Result {
        let d = self.sources.chunks.stats();
        out.gauge("used_buffer_size_bytes", "Buffer in use", d.buffer_used_bytes as f64)?;
        out.gauge("buffer_page_bytes", "Memory held for pages, lent or free", d.page_memory_bytes as f64)?;
        out.gauge("buffer_waiting_writers", "Writers waiting for buffer", d.writers_waiting as f64)?;
        let s = self.sources.chunks.staging_stats();
        out.gauge("staging_blocks", "Blocks that wait for upload on this disk", s.blocks as f64)?;
        out.gauge("staging_block_bytes", "Bytes of those", s.bytes as f64)?;
        out.gauge("staging_oldest_seconds", "Age of the oldest of those", s.oldest_age.as_secs_f64())?;
        out.gauge("staging_lost_blocks", "Staged blocks that were set aside or cannot be read", s.lost_blocks as f64)?;
        out.counter("staging_written_blocks", "Blocks staged", s.staged_blocks)?;
        out.counter("staging_write_bytes", "Bytes of those", s.staged_bytes)?;
        out.counter("staging_uploaded_blocks", "Staged blocks that the store took", s.uploaded_blocks)?;
        out.counter("staging_block_errors", "Uploads that failed and are tried again", s.upload_errors)?;
        out.counter("staging_refused_blocks", "Blocks that went to the store at once", s.refused_blocks)?;
        out.counter("chunk_put_blocks", "Blocks stored", d.put_blocks)?;
        out.counter("chunk_put_bytes", "Plain bytes of those", d.put_bytes)?;
        out.counter("chunk_put_errors", "Blocks that could not be stored", d.put_errors)?;
        out.counter("chunk_get_blocks", "Blocks fetched", d.get_blocks)?;
        out.counter("chunk_get_bytes", "Plain bytes of those", d.get_bytes)?;
        out.counter("chunk_get_errors", "Blocks that could not be fetched", d.get_errors)?;
        out.counter("chunk_prefetched_blocks", "Blocks fetched ahead", d.prefetched_blocks)?;
        out.counter("chunk_range_gets", "Parts of blocks fetched", d.range_gets)?;
        out.counter("chunk_hedged_gets", "Gets made twice because the first was slow", d.hedged_gets)?;
        out.counter("chunk_refetches", "Blocks fetched again, not decodable the first time", d.refetches)?;
        out.counter("chunk_corrupt_blocks", "Blocks that did not decode twice", d.corrupt_blocks)
    }

    fn jobs(&self, out: &mut Out<'_, '_>) -> std::fmt::Result {
        let j = self.sources.upkeep.stats();
        out.counter("bgjob_compactions", "Chunks compacted", j.compactions)?;
        out.counter("bgjob_compacted_bytes", "Bytes written for those", j.compacted_bytes)?;
        out.counter("bgjob_deleted_files", "Removed files whose data was let go", j.deleted_files)?;
        out.counter("bgjob_deleted_slices", "Slices whose objects were deleted", j.deleted_slices)?;
        out.counter("bgjob_reaped_sessions", "Dead sessions cleaned up", j.reaped_sessions)?;
        out.counter("bgjob_expired_entries", "Entries removed from the trash", j.expired_entries)?;
        out.counter("bgjob_failures", "Jobs that failed and will be tried again", j.failures)
    }
}

/// A few words for one metric.
struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> std::fmt::Result {
        let metric = ConstGauge::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> std::fmt::Result {
        let metric = ConstCounter::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Counter)?)
    }
}

/// Second field of /proc/self/statm, in bytes.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}

/// CPU seconds of this process so far.
fn rusage() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_are_names_and_values() {
        let text = "# HELP x y\njuicefs_uptime{vol_name=\"v\"} 1.5\n\
                    juicefs_d_sum{vol_name=\"v\",method=\"PUT\"} 2.0\njuicefs_d_count{vol_name=\"v\",method=\"PUT\"} 3\n\
                    juicefs_d_bucket{vol_name=\"v\",le=\"1\"} 3\n# EOF\n";
        assert_eq!(short(text), "juicefs_uptime 1.5\njuicefs_d_sum_PUT 2.0\njuicefs_d_total_PUT 3\n");
    }
}
