//! What tasks of older servers wait for.
//!
//! Such a server asks what a task needs to know on the answer of `tasks/result`. That request is kept open while the task
//! waits, as an [`Errand`], and its questions are shown to whoever asks for the task.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mcp::{
    Method,
    era::tasks::{META_RELATED, params},
    notification::with_meta,
};
use tokio::sync::Notify;

use super::{
    Abandon, Lost,
    call::written,
    connection::{Asker, Connection, Event, Exchange, Question},
};
use crate::plugin::Inputs;

/// Tasks of one server that wait for their clients at once.
const ERRANDS_MAX: usize = 64;
/// How long a task may wait for its client.
const ERRAND_LIFE: Duration = Duration::from_secs(3600);
/// How long a task that waits for its client may take to say what for.
const QUESTION_WITHIN: Duration = Duration::from_millis(500);
/// Questions of one task.
const QUESTIONS_MAX: usize = 32;

/// What the tasks of one server wait for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Errands(Arc<Mutex<HashMap<String, Arc<Errand>>>>);

/// What one task waits for.
#[derive(Debug, Default)]
struct Errand {
    open: Mutex<BTreeMap<String, Question>>,
    /// A question came, or there will be none.
    news: Notify,
}

impl Errand {
    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Question>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn questions(&self) -> Inputs {
        let open = self.open();
        let shown = open.iter().filter_map(|(key, question)| {
            let params = question.params.as_deref();
            let params = with_meta(params, META_RELATED, None);
            Some((key.clone(), written(&question.method, params.as_deref())?))
        });
        shown.collect()
    }
}

impl Errands {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Errand>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what a task that waits for its client asks it; nothing if it does not say soon.
    pub(super) async fn questions(
        &self,
        connection: &Connection,
        id: &str,
        asker: Asker,
    ) -> Inputs {
        let known = self.all().get(id).cloned();
        let errand = match known {
            Some(errand) => errand,
            None => match self.begin(connection, id, asker).await {
                Ok(errand) => errand,
                Err(_) => return Inputs::new(),
            },
        };
        let mut news = std::pin::pin!(errand.news.notified());
        news.as_mut().enable();
        if errand.open().is_empty() {
            // Asked for again soon, one way or the other.
            drop(tokio::time::timeout(QUESTION_WITHIN, news).await);
        }
        errand.questions()
    }

    async fn begin(
        &self,
        connection: &Connection,
        id: &str,
        asker: Asker,
    ) -> Result<Arc<Errand>, Lost> {
        if self.all().len() >= ERRANDS_MAX {
            return Err(Lost::Busy);
        }
        let until = Instant::now() + ERRAND_LIFE;
        let exchange = connection
            .begin(
                connection.fresh_id(),
                Method::TasksResult.as_str(),
                &params(id),
                Some(asker),
                Instant::now() + QUESTION_WITHIN,
                Abandon::Cancel,
            )
            .await?;
        let errand = Arc::new(Errand::default());
        // Who came first keeps it: the other's request is taken back.
        let mut all = self.all();
        if let Some(first) = all.get(id) {
            return Ok(Arc::clone(first));
        }
        all.insert(id.to_owned(), Arc::clone(&errand));
        drop(all);
        tokio::spawn(run(
            self.clone(),
            id.to_owned(),
            Arc::clone(&errand),
            exchange,
            until,
        ));
        Ok(errand)
    }

    /// Brings the server its client's answers; those to nothing that is asked mean nothing.
    pub(super) async fn answer(
        &self,
        connection: &Connection,
        id: &str,
        inputs: Inputs,
        deadline: Instant,
    ) -> Result<(), Lost> {
        let Some(errand) = self.all().get(id).cloned() else {
            return Ok(());
        };
        for (key, input) in inputs {
            let question = errand.open().remove(&key);
            if let Some(question) = question {
                connection.answer(&question, &input, deadline).await?;
            }
        }
        Ok(())
    }
}

/// Takes in what a task asks until it is over.
async fn run(
    errands: Errands,
    id: String,
    errand: Arc<Errand>,
    mut exchange: Exchange,
    until: Instant,
) {
    let mut asked = 0_usize;
    while let Ok(Event::Question(question)) = exchange.next(until).await {
        asked += 1;
        if asked > QUESTIONS_MAX {
            exchange.refuse(&question);
            continue;
        }
        errand.open().insert(format!("q{asked}"), question);
        errand.news.notify_waiters();
    }
    errands.all().remove(&id);
    errand.news.notify_waiters();
    for question in std::mem::take(&mut *errand.open()).into_values() {
        exchange.refuse(&question);
    }
}
