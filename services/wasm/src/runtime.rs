//! The engine: compiler, memory pool, and the clock that interrupts what runs too long.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use wasmtime::{
    Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy,
    PoolingAllocationConfig,
};

/// How long a component computes before it lets others run and its deadline is looked at.
const TICK: Duration = Duration::from_millis(5);
/// Components that exist at once, over all plugins, whether they are called or wait for a call.
const INSTANCES_MAX: u32 = 256;
/// Core instances of all of them together: one component is made of several.
const CORE_INSTANCES_MAX: u32 = 4 * INSTANCES_MAX;
/// The largest memory that a plugin can be allowed, in bytes.
pub(crate) const MEMORY_BYTES_MAX: usize = 1 << 30;
/// The largest table that a plugin can be allowed, in elements.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 200_000;
/// How much of a memory is cleared by hand rather than given back to the system, in bytes: what most calls touch. What is
/// given back costs the next call a page fault for each page.
const RESIDENT_BYTES: usize = 256 << 10;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine cannot be started: {0}")]
pub struct RuntimeError(String);

/// The engines that all plugins of a process share. Clones share them.
#[derive(Debug, Clone)]
pub struct Runtime {
    engine: Engine,
    cache: Option<Cache>,
    /// Counting what is computed makes all of it slower, so only components that have a limit on it pay.
    counting: Arc<Mutex<Option<Engine>>>,
}

impl Runtime {
    /// Starts the engine. Compiled components are kept in the folder `cache`, if there is one, and found there again.
    ///
    /// # Errors
    /// When address space, the cache's folder or a thread cannot be had.
    pub fn start(cache: Option<&Path>) -> Result<Self, RuntimeError> {
        let cache = cache.map(|folder| {
            let mut kept = CacheConfig::new();
            kept.with_directory(folder);
            Cache::new(kept).map_err(|error| RuntimeError(format!("{error:#}")))
        });
        let cache = cache.transpose()?;
        Ok(Self {
            engine: engine(cache.clone(), Fuel::Uncounted)?,
            cache,
            counting: Arc::default(),
        })
    }

    /// Returns the engine for components with or without a limit on what they compute.
    pub(crate) fn engine(&self, fuel: Option<u64>) -> Result<Engine, RuntimeError> {
        if fuel.is_none() {
            return Ok(self.engine.clone());
        }
        let mut counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*counting {
            return Ok(engine.clone());
        }
        let started = engine(self.cache.clone(), Fuel::Counted)?;
        Ok(counting.insert(started).clone())
    }
}

/// Whether an engine counts what components compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fuel {
    Counted,
    Uncounted,
}

fn engine(cache: Option<Cache>, fuel: Fuel) -> Result<Engine, RuntimeError> {
    let failed = |error: &dyn std::fmt::Display| RuntimeError(format!("{error:#}"));
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool()))
        .memory_reservation(MEMORY_BYTES_MAX as u64)
        .epoch_interruption(true)
        .consume_fuel(fuel == Fuel::Counted)
        .cache(cache);
    let engine = Engine::new(&config).map_err(|error| failed(&error))?;
    let weak = engine.weak();
    thread::Builder::new()
        .name("wasm-clock".into())
        .spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
            }
        })
        .map_err(|error| failed(&error))?;
    Ok(engine)
}

fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX)
        .total_core_instances(CORE_INSTANCES_MAX)
        .total_memories(CORE_INSTANCES_MAX)
        .total_tables(2 * CORE_INSTANCES_MAX)
        .total_stacks(INSTANCES_MAX)
        .max_memory_size(MEMORY_BYTES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_core_instances_per_component(64)
        .max_memories_per_component(16)
        .max_tables_per_component(64)
        .max_tables_per_module(16)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .linear_memory_keep_resident(RESIDENT_BYTES)
        .table_keep_resident(RESIDENT_BYTES)
        // Where the kernel can tell which pages were written, only those are cleared.
        .pagemap_scan(Enabled::Auto);
    pool
}
