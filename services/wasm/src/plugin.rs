//! One component: compiled, linked, with instances that wait for calls.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use wasmtime::{
    Store, UpdateDeadline,
    component::{Component, Linker},
};

use crate::{
    Grants, Host, Limits, Runtime, RuntimeError,
    interface::{Plugin as Instance, PluginPre},
    runtime::MEMORY_BYTES_MAX,
    state::{self, State},
};

/// How long making an instance may take.
const MAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Tools of one plugin.
const TOOLS_MAX: usize = 1_000;
/// How much of a reason is kept, in characters.
const REASON_CHARS_MAX: usize = 300;

/// Why a component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is none, or does not compile.
    #[error("it cannot be compiled: {0}")]
    Compile(String),
    /// It imports what no plugin gets, or does not export what a plugin has to.
    #[error("it does not fit the interface sweetmcp:plugin: {0}")]
    Interface(String),
    /// There is no engine for it.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Too many calls are under way, or too many instances exist; it did not run.
    #[error("too many calls are under way")]
    Busy,
    /// No instance could be made; it did not run.
    #[error("no instance can be made: {0}")]
    Unmade(String),
    /// Its time was up.
    #[error("its time was up")]
    Late,
    /// It trapped: a defect of the plugin, or something it was not granted, or a limit.
    #[error("it trapped: {0}")]
    Trapped(String),
    /// It answered more than is taken.
    #[error("it answered {0} bytes, more than is taken")]
    TooLong(usize),
}

/// A loaded component. Clones share it.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    pre: PluginPre<State>,
    limits: Limits,
    grants: Grants,
    room: Semaphore,
    warm: Mutex<VecDeque<Made>>,
    /// Instances being made to wait.
    making: AtomicUsize,
    /// Instances that were called and are not thrown away yet.
    clearing: AtomicUsize,
}

/// An instance that nobody has called.
struct Made {
    store: Store<State>,
    instance: Instance,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("limits", &self.0.limits)
            .field("grants", &self.0.grants)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    /// Compiles a component, or finds it compiled. This takes seconds of a thread for a large one.
    ///
    /// # Errors
    /// [`LoadError`] when it is no plugin.
    pub fn load(
        runtime: &Runtime,
        bytes: &[u8],
        limits: Limits,
        grants: Grants,
    ) -> Result<Self, LoadError> {
        let engine = runtime.engine(limits.fuel)?;
        let component = Component::from_binary(&engine, bytes)
            .map_err(|error| LoadError::Compile(reason(&error)))?;
        let mut linker = Linker::new(&engine);
        let pre = state::link(&mut linker, &grants)
            .and_then(|()| linker.instantiate_pre(&component))
            .and_then(PluginPre::new)
            .map_err(|error| LoadError::Interface(reason(&error)))?;
        let limits = Limits {
            memory_bytes: limits.memory_bytes.min(MEMORY_BYTES_MAX),
            ..limits
        };
        Ok(Self(Arc::new(Inner {
            pre,
            limits,
            grants,
            room: Semaphore::new(limits.calls),
            warm: Mutex::default(),
            making: AtomicUsize::new(0),
            clearing: AtomicUsize::new(0),
        })))
    }

    /// Returns the tools, each as JSON; or what the component says why it has none.
    ///
    /// # Errors
    /// [`CallError`] when it says nothing.
    pub async fn list_tools(
        &self,
        host: Arc<dyn Host>,
        deadline: Instant,
    ) -> Result<Result<Vec<String>, String>, CallError> {
        let listed = self
            .run(host, deadline, async |made| {
                let Made { store, instance } = made;
                instance.call_list_tools(store).await
            })
            .await?;
        if let Ok(tools) = &listed {
            let bytes = tools.iter().map(String::len).sum();
            if tools.len() > TOOLS_MAX || bytes > self.0.limits.answer_bytes {
                return Err(CallError::TooLong(bytes));
            }
        }
        Ok(listed)
    }

    /// Calls a tool with a JSON object; returns its JSON, or what the component says why there is none.
    ///
    /// # Errors
    /// [`CallError`] when it says nothing.
    pub async fn call_tool(
        &self,
        name: &str,
        arguments: &str,
        host: Arc<dyn Host>,
        deadline: Instant,
    ) -> Result<Result<String, String>, CallError> {
        let answer = self
            .run(host, deadline, async |made| {
                let Made { store, instance } = made;
                instance.call_call_tool(store, name, arguments).await
            })
            .await?;
        let (Ok(text) | Err(text)) = &answer;
        if text.len() > self.0.limits.answer_bytes {
            return Err(CallError::TooLong(text.len()));
        }
        Ok(answer)
    }

    async fn run<T>(
        &self,
        host: Arc<dyn Host>,
        deadline: Instant,
        call: impl AsyncFnOnce(&mut Made) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        let _room = self.0.room.try_acquire().map_err(|_| CallError::Busy)?;
        let waiting = self.0.waiting().pop_front();
        let mut made = match waiting {
            Some(made) => made,
            None => self.0.make(deadline).await?,
        };
        let state = made.store.data_mut();
        state.deadline = deadline;
        state.requests.deadline = deadline;
        state.host = Some(host);
        made.store.set_epoch_deadline(1);
        self.0.fill_up(&mut made.store);
        let ended = tokio::time::timeout_at(deadline.into(), call(&mut made)).await;
        self.clear_up(made);
        match ended {
            Ok(Ok(answer)) => Ok(answer),
            Err(_) => Err(CallError::Late),
            Ok(Err(error)) => Err(why(&error)),
        }
    }

    /// Throws an instance away and makes the next one, without letting the caller wait; unless that has already fallen behind.
    fn clear_up(&self, made: Made) {
        let inner = Arc::clone(&self.0);
        if inner.clearing.fetch_add(1, Ordering::AcqRel) >= inner.limits.calls {
            inner.clearing.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        tokio::spawn(async move {
            drop(made);
            inner.clearing.fetch_sub(1, Ordering::AcqRel);
            inner.refill().await;
        });
    }
}

impl Inner {
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Made>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes instances until as many wait as should.
    async fn refill(&self) {
        loop {
            let missing = self.limits.warm.saturating_sub(self.waiting().len());
            if self.making.fetch_add(1, Ordering::AcqRel) >= missing {
                self.making.fetch_sub(1, Ordering::AcqRel);
                return;
            }
            let made = self.make(Instant::now() + MAKE_TIMEOUT).await;
            self.making.fetch_sub(1, Ordering::AcqRel);
            match made {
                Ok(made) => self.waiting().push_back(made),
                // The next call makes its own, and hears why if it cannot.
                Err(_) => return,
            }
        }
    }

    /// Gives a store what it may compute, if that is limited.
    fn fill_up(&self, store: &mut Store<State>) {
        if let Some(fuel) = self.limits.fuel {
            #[expect(clippy::expect_used, reason = "its engine was chosen for the limit")]
            store.set_fuel(fuel).expect("an engine that counts");
        }
    }

    async fn make(&self, deadline: Instant) -> Result<Made, CallError> {
        let unmade = |error: wasmtime::Error| match why(&error) {
            CallError::Trapped(reason) => CallError::Unmade(reason),
            other => other,
        };
        let deadline = deadline.min(Instant::now() + MAKE_TIMEOUT);
        let state = State::new(&self.limits, &self.grants, deadline).map_err(unmade)?;
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.epoch_deadline_callback(|store| {
            if Instant::now() >= store.data().deadline {
                return Err(wasmtime::Error::from(Late));
            }
            Ok(UpdateDeadline::Yield(1))
        });
        store.set_epoch_deadline(1);
        self.fill_up(&mut store);
        let making = self.pre.instantiate_async(&mut store);
        let instance = tokio::time::timeout_at(deadline.into(), making)
            .await
            .map_err(|_| CallError::Late)?
            .map_err(unmade)?;
        Ok(Made { store, instance })
    }
}

/// The deadline passed while the component computed.
#[derive(Debug, thiserror::Error)]
#[error("its time was up")]
struct Late;

fn why(error: &wasmtime::Error) -> CallError {
    if error.is::<Late>() {
        CallError::Late
    } else if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        CallError::Busy
    } else {
        CallError::Trapped(reason(error))
    }
}

/// Returns what went wrong in one line, escaped: parts of it are the component's own words.
fn reason(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error
        .chain()
        .map(ToString::to_string)
        .filter(|cause| !cause.starts_with("error while executing at wasm backtrace"))
        .collect();
    let text: String = causes.join(": ").chars().take(REASON_CHARS_MAX).collect();
    text.escape_debug().to_string()
}
