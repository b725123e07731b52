"""A GraphQL client learns the schema by introspection, and calls a tool by its typed field: graphql_client.py URL TOKEN"""

import asyncio
import json
import sys

from gql import Client
from gql.dsl import DSLQuery, DSLSchema, dsl_gql
from gql.transport.httpx import HTTPXAsyncTransport


async def main(url: str, token: str) -> None:
    transport = HTTPXAsyncTransport(url=url, headers={"Authorization": f"Bearer {token}"})
    async with Client(transport=transport, fetch_schema_from_transport=True) as session:
        schema = DSLSchema(session.client.schema)
        field = schema.Query.hash_digest(text="abc")
        result_type = session.client.schema.query_type.fields["hash_digest"].type
        while hasattr(result_type, "of_type"):
            result_type = result_type.of_type
        result = getattr(schema, result_type.name)
        answer = await session.execute(dsl_gql(DSLQuery(field.select(result.text, result.isError))))
        print(json.dumps({"fields": sorted(session.client.schema.query_type.fields), **answer}))


asyncio.run(main(*sys.argv[1:]))
