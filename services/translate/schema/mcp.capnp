@0xa39c2c330ef0c9b3;
# SweetMCP's gateway RPC: MCP tools for programs that speak Cap'n Proto.
#
# This is an interface of the gateway, not a transport of MCP: calls become MCP requests at the gateway,
# and what the tools answer comes back typed. Two ways to use it:
#
# 1. Two-party RPC on the gateway's own port. The bootstrap capability is a `Gateway`. Authenticate with a
#    bearer token and call on the `Mcp` that comes back; calls may be pipelined on it at once.
#
#      mcp = gateway.authenticate(token).mcp
#      mcp.callTool(tool = "time_now", argumentsJson = "{}")
#
# 2. One message per HTTP request: `POST /capnp` with `Content-Type: application/capnp`, a `Request` in and a
#    `Response` out. The token goes into the `Authorization` header.
#
# Failures are values, not exceptions. An exception means that a message could not be read, or that the
# connection is ending.
#
# JSON that the gateway does not look into stays JSON text, so nothing is lost or rounded on the way.
#
# Compatibility: fields and methods are only added, numbers never change their meaning.

interface Gateway {
  info @0 () -> (info :Info);
  # What this gateway is. Needs no token.

  authenticate @1 (token :Text) -> (mcp :Mcp, failure :Failure);
  # Exchanges a bearer token for the tools that it permits. Exactly one of `mcp` and `failure` is set. What was
  # pipelined on `mcp` fails with an exception when authentication failed.
  # The capability ends with the token's lifetime: calls then fail with the code UNAUTHENTICATED.
}

interface Mcp {
  listTools @0 ListTools -> ToolsReply;
  # One page of the tools on offer.

  callTool @1 CallTool -> CallToolReply;
  # Calls a tool once. Dropping the call cancels it as far as the tool allows.

  request @2 RawRequest -> RawReply;
  # Any other request of MCP, such as resources/read or prompts/get, as JSON.
}

struct Info {
  name @0 :Text;
  version @1 :Text;
  revision @2 :Text;
  # The newest revision of MCP that is spoken, such as "2026-07-28".
}

struct ListTools {
  cursor @0 :Text;
  # `nextCursor` of the page before; empty for the first page.
}

struct CallTool {
  tool @0 :Text;
  # The tool's MCP name. (Not `name`: pycapnp keeps that keyword for itself.)
  argumentsJson @1 :Text;
  # A JSON object. Empty means {}.
  deadlineMs @2 :UInt32;
  # The longest to wait, in milliseconds; 0 leaves it to the gateway, which also has an upper bound.
  traceparent @3 :Text;
  # W3C trace context of the caller; may be empty.
}

struct RawRequest {
  method @0 :Text;
  # MCP's name of the method, such as "resources/read".
  paramsJson @1 :Text;
  # A JSON object. Empty means {}.
  deadlineMs @2 :UInt32;
  traceparent @3 :Text;
}

struct ToolsReply {
  union {
    page @0 :ToolPage;
    failure @1 :Failure;
  }
}

struct CallToolReply {
  union {
    result @0 :ToolResult;
    # The tool ran. It may still say that it failed: `isError`.
    failure @1 :Failure;
    # There is no result; see `retryable` for whether the tool may have run.
  }
}

struct RawReply {
  union {
    resultJson @0 :Text;
    failure @1 :Failure;
  }
}

struct ToolPage {
  tools @0 :List(Tool);
  nextCursor @1 :Text;
  # Empty on the last page.
}

struct Tool {
  name @0 :Text;
  title @1 :Text;
  description @2 :Text;
  inputSchemaJson @3 :Text;
  outputSchemaJson @4 :Text;
  # Empty when the tool has none.
  readOnly @5 :Bool;
  destructive @6 :Bool;
  idempotent @7 :Bool;
  openWorld @8 :Bool;
  # What the server says of the tool's effects, with MCP's defaults filled in.
  json @9 :Text;
  # The definition as it came.
}

struct ToolResult {
  content @0 :List(Content);
  isError @1 :Bool;
  structuredJson @2 :Text;
  # The structured content; empty when there is none.
  metaJson @3 :Text;
  # The result's `_meta`; empty when there is none.
}

struct Content {
  union {
    text @0 :Text;
    image @1 :Blob;
    audio @2 :Blob;
    link @3 :Link;
    # A link to a resource.
    json @4 :Text;
    # Any other content, as it came.
  }
  annotationsJson @5 :Text;
}

struct Blob {
  data @0 :Data;
  mediaType @1 :Text;
}

struct Link {
  uri @0 :Text;
  name @1 :Text;
  mediaType @2 :Text;
  description @3 :Text;
}

struct Failure {
  code @0 :Text;
  # One of a fixed set, the same for every protocol of the gateway, such as RATE_LIMITED.
  mcpCode @1 :Int32;
  # The JSON-RPC error code that an MCP client would have got.
  message @2 :Text;
  # One sentence for people.
  origin @3 :Origin;
  retryable @4 :Bool;
  # Whether the same call may be made again without running anything twice.
  retryAfterMs @5 :UInt32;
  # When to try again; 0 when that is not known.
  requestId @6 :Text;
  # The call's id in logs and traces.
  dataJson @7 :Text;
  # More for programs; empty when there is nothing.
}

enum Origin {
  client @0;
  # The request cannot be served as it is.
  policy @1;
  # Identity, permission or limit forbid it.
  gateway @2;
  # The gateway failed.
  upstream @3;
  # The app, or what is behind it, failed.
}

struct Request {
  # One request as a single message.
  id @0 :UInt64;
  # Comes back in the response.
  union {
    info @1 :Void;
    listTools @2 :ListTools;
    callTool @3 :CallTool;
    raw @4 :RawRequest;
  }
}

struct Response {
  id @0 :UInt64;
  union {
    failure @1 :Failure;
    # First, so that an empty message is no success.
    info @2 :Info;
    page @3 :ToolPage;
    result @4 :ToolResult;
    resultJson @5 :Text;
  }
}
