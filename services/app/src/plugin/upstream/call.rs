//! A client's call to a server, through every question of the server to its answer.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use mcp::{Cause, Failure, Method};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Abandon, NoAnswer,
    connection::{Asker, Connection, Event, Exchange, Question},
    errands::Errands,
    forms,
    handshake::Agreement,
    tasks,
};
use crate::plugin::{Answer, Ask, CallContext, Inputs, Listing, Parked, Scope, State};

/// Whose calls these are, and what they have in common.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// The plugin's name.
    pub(crate) plugin: Arc<str>,
    /// How long a call may take, without the time in which its client is asked.
    pub(crate) call_timeout: Duration,
    /// Who may see the results. A server may say less than everybody, but not more than this.
    pub(crate) scope: Scope,
    /// What the server offers.
    pub(crate) listing: Arc<Listing>,
}

/// Asks in the server's era, under its own names, until `deadline`, and keeps the `turn` for as long. The answer is in the form of 2026-07-28; what the server
/// tells before goes to the client.
///
/// # Errors
/// [`NoAnswer`] when there is none.
pub(crate) async fn ask(
    connection: &Connection,
    agreement: &Agreement,
    errands: &Errands,
    terms: Terms,
    turn: Option<OwnedSemaphorePermit>,
    ask: &Ask<'_>,
    deadline: Instant,
) -> Result<Answer, NoAnswer> {
    if tasks::is_about_one(agreement, &terms.listing, ask) {
        // What a task asks names it.
        drop(turn);
        return tasks::answer(connection, errands, terms, ask, deadline).await;
    }
    if let Some(level) = ask.context.notices.log_level()
        && agreement.logs_on_request()
    {
        connection.log_from(level, deadline).await;
    }
    let id = connection.fresh_id();
    let params = forms::params_for_server(ask, agreement.era(), id).map_err(NoAnswer::Failed)?;
    let asker = Asker {
        client: Arc::clone(&ask.context.client),
        notices: ask.context.notices.clone(),
        task: None,
    };
    let method = ask.method.as_str();
    let begun = connection.begin(id, method, &params, Some(asker), deadline, Abandon::Cancel);
    let exchange = begun.await.map_err(NoAnswer::Lost)?;
    let working = Working::new(terms, ask.method.clone(), exchange, turn);
    working.go_on(deadline).await
}

/// A call under way. Dropping it tells the server to give it up.
#[derive(Debug)]
pub(crate) struct Working {
    terms: Terms,
    method: Method,
    exchange: Exchange,
    /// What the server wants to know, by the key under which its client is asked.
    open: BTreeMap<String, Question>,
    asked: usize,
    /// When the first question was asked that is still open.
    asked_at: Instant,
    /// Held for as long as no other call may be under way.
    turn: Option<OwnedSemaphorePermit>,
}

impl Working {
    /// Begins with what was sent for a request of this method. `turn` is kept until its end.
    pub(crate) fn new(
        terms: Terms,
        method: Method,
        exchange: Exchange,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            terms,
            method,
            exchange,
            open: BTreeMap::new(),
            asked: 0,
            asked_at: Instant::now(),
            turn,
        }
    }

    /// Waits until `deadline` for the answer, or for questions that come before it.
    ///
    /// # Errors
    /// [`NoAnswer`] when there is none.
    pub(crate) async fn go_on(mut self, deadline: Instant) -> Result<Answer, NoAnswer> {
        match self.exchange.next(deadline).await {
            Ok(Event::Answer(Answer::Result(result))) => {
                let result = forms::result_from_server(result, &self.method);
                let result = result.and_then(|result| forms::within(result, self.terms.scope));
                result.map(Answer::Result).map_err(NoAnswer::Failed)
            }
            Ok(Event::Answer(Answer::Error(error))) => {
                let error = forms::error_from_server(error);
                error.map(Answer::Error).map_err(NoAnswer::Failed)
            }
            Ok(Event::Answer(Answer::Questions(_))) => {
                Err(NoAnswer::Failed(Failure::new(Cause::Internal)))
            }
            Ok(Event::Question(question)) => {
                self.keep(question);
                // Questions that were asked together are put together.
                while let Some(question) = self.exchange.waiting_question() {
                    self.keep(question);
                }
                Ok(Answer::Questions(Box::new(self)))
            }
            Err(lost) => Err(NoAnswer::Lost(lost)),
        }
    }

    fn keep(&mut self, question: Question) {
        self.asked += 1;
        if self.open.is_empty() {
            self.asked_at = Instant::now();
        }
        self.open.insert(format!("q{}", self.asked), question);
    }

    async fn answer_and_go_on(
        self,
        inputs: Inputs,
        context: CallContext,
    ) -> Result<Answer, Failure> {
        let plugin = Arc::clone(&self.terms.plugin);
        let went_on = self.hand_in_and_go_on(inputs, context).await;
        // What is told of a call that has begun does not depend on the plugin's state.
        went_on.map_err(|none| none.once_begun().failure(&plugin, &State::Ready))
    }

    async fn hand_in_and_go_on(
        mut self,
        mut inputs: Inputs,
        context: CallContext,
    ) -> Result<Answer, NoAnswer> {
        let deadline = context
            .deadline
            .min(Instant::now() + self.terms.call_timeout);
        self.exchange.continue_for(context.client, context.notices);
        let answered: Vec<String> = self
            .open
            .keys()
            .filter(|key| inputs.contains_key(*key))
            .cloned()
            .collect();
        for key in answered {
            if let (Some(question), Some(input)) = (self.open.remove(&key), inputs.remove(&key)) {
                self.exchange
                    .connection()
                    .answer(&question, &input, deadline)
                    .await
                    .map_err(NoAnswer::Lost)?;
            }
        }
        if self.open.is_empty() {
            self.go_on(deadline).await
        } else {
            Ok(Answer::Questions(Box::new(self)))
        }
    }
}

impl Parked for Working {
    fn questions(&self) -> Inputs {
        let asked = |question: &Question| written(&question.method, question.params.as_deref());
        self.open
            .iter()
            .filter_map(|(key, question)| Some((key.clone(), asked(question)?)))
            .collect()
    }

    fn asked_at(&self) -> Instant {
        self.asked_at
    }

    fn is_in_the_way(&self) -> BoxFuture<'static, ()> {
        if self.turn.is_none() {
            return Box::pin(std::future::pending());
        }
        let connection = self.exchange.connection().clone();
        Box::pin(async move { connection.turn_is_wanted().await })
    }

    fn resume(
        self: Box<Self>,
        inputs: Inputs,
        context: CallContext,
    ) -> BoxFuture<'static, Result<Answer, Failure>> {
        Box::pin(self.answer_and_go_on(inputs, context))
    }
}

/// A question as an entry of `inputRequests`.
pub(crate) fn written(method: &str, params: Option<&RawValue>) -> Option<Box<RawValue>> {
    #[derive(Serialize)]
    struct Asked<'a> {
        method: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        params: Option<&'a RawValue>,
    }
    to_raw_value(&Asked { method, params }).ok()
}

impl Drop for Working {
    fn drop(&mut self) {
        for question in self.open.values() {
            self.exchange.refuse(question);
        }
    }
}
