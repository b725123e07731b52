//! `sqlite`: questions to a database that cannot change it.
//!
//! Four walls, each enough by itself for what it covers: the file is opened read-only, `query_only` is on, the authorizer
//! admits reading and nothing else (no ATTACH, no PRAGMA, no extension), and one statement runs at a time. Work is bounded
//! by a progress handler that watches the call's deadline, results by rows and bytes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rusqlite::{
    Connection, OpenFlags,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::{ToSqlOutput, ValueRef},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use tokio::sync::Semaphore;

use super::tool::{About, Hints, Refusal, Tool};
use crate::plugin::CallContext;

/// How often the deadline is looked at, in virtual machine instructions.
const PROGRESS_EVERY: i32 = 10_000;
/// The largest answer, in bytes of its values.
const RESULT_BYTES_MAX: usize = 4 << 20;
/// The longest string or blob that a statement may make, in bytes.
const VALUE_BYTES_MAX: i32 = 4 << 20;
/// The longest statement, in bytes.
const SQL_BYTES_MAX: i32 = 100_000;
/// Connections that are kept open between calls.
const KEPT_MAX: usize = 4;

/// Returns the tools of the set over the database at `path`, or over an empty one in memory.
pub(crate) fn tools(path: Option<&Path>, threads: &Arc<Semaphore>) -> Vec<Tool> {
    let database = Database {
        path: path.map(Into::into),
        idle: Arc::default(),
    };
    vec![
        Tool::blocking(
            About {
                name: "query",
                title: "Query SQLite",
                description: "Runs one read-only SQL statement on the SQLite database and answers columns and rows. Without a configured database, it computes over literal values and JSON (`json_each`).",
                hints: Hints::READ_ONLY,
            },
            database.clone(),
            threads,
            query,
        ),
        Tool::blocking(
            About {
                name: "schema",
                title: "SQLite schema",
                description: "Lists the tables and views of the SQLite database with the statements that made them.",
                hints: Hints::READ_ONLY,
            },
            database,
            threads,
            schema,
        ),
    ]
}

#[derive(Clone)]
struct Database {
    path: Option<PathBuf>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Database {
    /// Runs `work` on a connection that gives up when the call is over.
    fn with<T>(
        &self,
        context: &CallContext,
        work: impl FnOnce(&Connection) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let kept = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.open()?,
        };
        let call = context.clone();
        connection.progress_handler(PROGRESS_EVERY, Some(move || call.is_over()))?;
        let done = work(&connection);
        connection.progress_handler(PROGRESS_EVERY, None::<fn() -> bool>)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT_MAX {
            idle.push(connection);
        }
        done
    }

    fn open(&self) -> Result<Connection, Refusal> {
        let mut connection = match &self.path {
            None => Connection::open_in_memory()?,
            Some(path) => Connection::open_with_flags(
                path,
                OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )
            .map_err(|error| Refusal(format!("the database cannot be opened: {error}")))?,
        };
        connection.execute_batch(
            "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
        )?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
        connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        connection.set_limit(Limit::SQLITE_LIMIT_EXPR_DEPTH, 100)?;
        connection.set_limit(Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50)?;
        connection.authorizer(Some(readers_only))?;
        Ok(connection)
    }
}

fn readers_only(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => {
            Authorization::Allow
        }
        AuthAction::Function { function_name }
            if !function_name.eq_ignore_ascii_case("load_extension") =>
        {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Query {
    /// One SQL statement; `?1`, `?2` … stand for parameters.
    sql: String,
    /// Values of the parameters: null, booleans, numbers and strings.
    #[serde(default)]
    #[schemars(length(max = 999))]
    parameters: Vec<Value>,
    /// How many rows are answered at most.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 10_000))]
    limit: usize,
}

fn hundred() -> usize {
    100
}

#[derive(Serialize, JsonSchema)]
struct Table {
    /// Names of the columns.
    columns: Vec<String>,
    /// The rows, each an array in the columns' order; a blob is `{"base64": "…"}`.
    rows: Vec<Vec<Value>>,
    /// Whether there are more rows than were answered.
    truncated: bool,
}

fn query(database: &Database, input: Query, context: &CallContext) -> Result<Table, Refusal> {
    database.with(context, |connection| {
        let mut statement = connection.prepare(&input.sql)?;
        if !statement.readonly() || statement.column_count() == 0 {
            return Err(Refusal("only statements that read are run".into()));
        }
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let parameters = input.parameters.iter().map(Parameter);
        let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
        let mut table = Table {
            columns,
            rows: Vec::new(),
            truncated: false,
        };
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            if table.rows.len() == input.limit || bytes > RESULT_BYTES_MAX {
                table.truncated = true;
                break;
            }
            let values = (0..table.columns.len())
                .map(|column| row.get_ref(column).map(|value| to_json(value, &mut bytes)))
                .collect::<Result<_, _>>()?;
            table.rows.push(values);
        }
        Ok(table)
    })
}

/// A parameter as JSON has it.
struct Parameter<'a>(&'a Value);

impl rusqlite::ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Bool(value) => ToSqlOutput::Borrowed(ValueRef::Integer(i64::from(*value))),
            Value::String(value) => ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes())),
            Value::Number(value) => match (value.as_i64(), value.as_f64()) {
                (Some(whole), _) => ToSqlOutput::Borrowed(ValueRef::Integer(whole)),
                (None, Some(broken)) => ToSqlOutput::Borrowed(ValueRef::Real(broken)),
                (None, None) => ToSqlOutput::Owned(rusqlite::types::Value::Text(value.to_string())),
            },
            // `json_each(?1)` takes text.
            compound => ToSqlOutput::Owned(rusqlite::types::Value::Text(compound.to_string())),
        })
    }
}

fn to_json(value: ValueRef<'_>, bytes: &mut usize) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => value.into(),
        ValueRef::Real(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
        ValueRef::Text(value) => {
            *bytes += value.len();
            String::from_utf8_lossy(value).into_owned().into()
        }
        ValueRef::Blob(value) => {
            *bytes += value.len();
            Value::Object(Map::from_iter([(
                "base64".to_owned(),
                STANDARD.encode(value).into(),
            )]))
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Serialize, JsonSchema)]
struct Schema {
    /// Tables and views.
    relations: Vec<Relation>,
}

#[derive(Serialize, JsonSchema)]
struct Relation {
    /// Its name.
    name: String,
    /// `table` or `view`.
    kind: String,
    /// The statement that made it.
    sql: String,
}

fn schema(database: &Database, _: Nothing, context: &CallContext) -> Result<Schema, Refusal> {
    const SQL: &str = "SELECT name, type, coalesce(sql, '') FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY name LIMIT 1000";
    database.with(context, |connection| {
        let mut statement = connection.prepare(SQL)?;
        let relations = statement
            .query_map([], |row| {
                Ok(Relation {
                    name: row.get(0)?,
                    kind: row.get(1)?,
                    sql: row.get(2)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        Ok(Schema { relations })
    })
}
