//! Tasks of children.
//!
//! A task is one child's, so its id says which: `2.ID`. A child of the older era asks what a task needs to know on the answer
//! of `tasks/result`; that request is kept open while the task waits, as an [`Errand`], and its questions are shown to whoever
//! asks for the task.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mcp::{
    Cause, Failure, Method,
    era::tasks::{self as forms_of_tasks, META_RELATED, Task},
    members::{Members, raw_of},
    notification::with_meta,
};
use tokio::sync::Notify;

use super::{Stdio, worker::Link};
use crate::plugin::{
    Answer, Ask, Inputs,
    upstream::{
        Abandon, Lost,
        call::{Working, written},
        connection::{Asker, Connection, Event, Exchange, Question},
        forms, tasks,
    },
};

/// Tasks of one child that wait for their clients at once.
const ERRANDS_MAX: usize = 64;
/// How long a task may wait for its client.
const ERRAND_LIFE: Duration = Duration::from_secs(3600);
/// How long a task that waits for its client may take to say what for.
const QUESTION_WITHIN: Duration = Duration::from_millis(500);
/// Questions of one task.
const QUESTIONS_MAX: usize = 32;

/// A task's id as the child has it, and which child that is.
pub(super) fn place(public: &str) -> Option<(usize, &str)> {
    let (child, id) = public.split_once('.')?;
    Some((child.parse().ok()?, id))
}

/// A result with the child's number in the id of the task that it made; any other as it is.
pub(super) fn placed(answer: Answer, child: usize) -> Answer {
    let Answer::Result(result) = answer else {
        return answer;
    };
    let marked = || {
        // Most results need not be read to see that they are none.
        if !result.get().contains("\"taskId\"") {
            return None;
        }
        let mut members = Members::parse(&result).ok()?;
        if members.get_str("resultType").as_deref() != Some("task") {
            return None;
        }
        let id = members.get_str("taskId")?;
        members.set("taskId", raw_of(&format!("{child}.{id}")));
        Some(members.to_raw())
    };
    Answer::Result(marked().unwrap_or(result))
}

/// What the tasks of one child wait for.
#[derive(Debug, Clone, Default)]
pub(super) struct Errands(Arc<Mutex<HashMap<String, Arc<Errand>>>>);

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
    async fn questions(&self, connection: &Connection, id: &str, asker: Asker) -> Inputs {
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
                &forms_of_tasks::params(id),
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

    /// Brings the child its client's answers; those to nothing that is asked mean nothing.
    async fn answer(
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

impl Stdio {
    /// Answers a request about a task.
    pub(super) async fn ask_task(
        &self,
        mut ask: Ask<'_>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let unknown = || Failure::say(Cause::InvalidParams, "no such task");
        let (child, id) = place(ask.key).ok_or_else(unknown)?;
        let link = self.pool.child(child).ok_or_else(unknown)?.link();
        let link = link.ok_or_else(|| self.failure(Lost::NotSent))?;
        if !tasks::are_taken(&link.agreement) {
            ask.key = id;
            let turn = link.connection.turn(deadline).await;
            let turn = turn.map_err(|lost| self.failure(lost))?;
            return self.call(ask, &link, turn, deadline).await;
        }
        let (connection, errands) = (&link.connection, &link.errands);
        let answer = match ask.method {
            Method::TasksGet => {
                let asker = Asker {
                    client: ask.context.client,
                    notices: ask.context.notices,
                    task: Some(id.into()),
                };
                let questions = async || errands.questions(connection, id, asker).await;
                tasks::get(connection, id, questions, deadline).await
            }
            Method::TasksUpdate => {
                let inputs = inputs(&ask.params);
                let answered = errands.answer(connection, id, inputs, deadline).await;
                answered.map(|()| tasks::done())
            }
            _ => tasks::cancel(connection, id, deadline).await,
        };
        match answer.map_err(|lost| self.failure(lost))? {
            Answer::Error(error) => forms::error_from_server(error).map(Answer::Error),
            answer => Ok(answer),
        }
    }

    /// Calls a tool that is a task always, at a child of the older era. A client that knows no tasks gets what it comes to.
    pub(super) async fn call_as_task(
        &self,
        ask: Ask<'_>,
        link: &Link,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let failure = |lost| self.failure(lost);
        let connection = &link.connection;
        let id = connection.fresh_id();
        let params = forms::params_for_server(&ask, link.agreement.era(), id)?;
        let params = forms_of_tasks::as_task(&params)?;
        let method = ask.method.as_str();
        let begun = connection.begin(id, method, &params, None, deadline, Abandon::Cancel);
        let mut exchange = begun.await.map_err(failure)?;
        let result = match exchange.next(deadline).await.map_err(failure)? {
            Event::Answer(Answer::Result(result)) => result,
            Event::Answer(Answer::Error(error)) => {
                return forms::error_from_server(error).map(Answer::Error);
            }
            // Nobody who could be asked was named.
            Event::Answer(Answer::Questions(_)) | Event::Question(_) => {
                return Err(Failure::new(Cause::Internal));
            }
        };
        let Some(task) = tasks::made(&result) else {
            return forms::result_from_server(result, ask.method).map(Answer::Result);
        };
        if ask.context.client.must_have_tasks().is_ok() {
            return forms_of_tasks::created(&result).map(Answer::Result);
        }
        let task: Arc<str> = Task::read(&task)?.id.into();
        let asker = Asker {
            client: ask.context.client,
            notices: ask.context.notices,
            task: Some(Arc::clone(&task)),
        };
        let params = forms_of_tasks::params(&task);
        let begun = connection.begin(
            connection.fresh_id(),
            Method::TasksResult.as_str(),
            &params,
            Some(asker),
            deadline,
            Abandon::Cancel,
        );
        let mut exchange = begun.await.map_err(failure)?;
        exchange.gives_up(task);
        let working = Working::new(self.terms(), ask.method.clone(), exchange, None);
        let went_on = working.go_on(deadline).await;
        went_on.map_err(|none| self.unanswered(none))
    }
}

/// The client's answers in a `tasks/update`.
fn inputs(params: &Members<'_>) -> Inputs {
    let given = params
        .get("inputResponses")
        .and_then(|raw| Members::parse(raw).ok());
    let given = given.unwrap_or_default();
    given
        .iter()
        .filter(|(_, answer)| answer.get().starts_with('{'))
        .map(|(key, answer)| (key.to_owned(), answer.to_owned()))
        .collect()
}
