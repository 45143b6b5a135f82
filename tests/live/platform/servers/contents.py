"""Prints what the platform's databases hold: a line for each table, index, label and type of relationship, with how many
there are and a checksum of all of them. It knows nothing of cairn."""
import hashlib
import json
import logging
import subprocess
import sys
import urllib.request

sys.path.insert(0, "/opt/lab/python")
import neo4j

logging.getLogger("neo4j").setLevel(logging.ERROR)


def told(kind, name, things):
    lines = sorted(json.dumps(thing, sort_keys=True, default=str) for thing in things)
    print(kind, name, len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest())


def psql(database, query):
    command = ["runuser", "-u", "postgres", "--", "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", *sys.argv[1:], "-d", database, "-c", query]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


for database in psql("postgres", "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"):
    tables = """SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"""
    for table in psql(database, tables):
        told("table", f"{database} {table}", psql(database, f"SELECT row_to_json(t) FROM {table} t"))
for role in psql("postgres", "SELECT rolname, rolsuper, rolcanlogin FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1"):
    print("role", role)


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"http://localhost:9200/{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=300) as answer:
        return json.load(answer)


for index in sorted(one["index"] for one in ask("_cat/indices?format=json&expand_wildcards=open")):
    page, found = ask(f"{index}/_search?scroll=1m", {"size": 5000}), []
    while page["hits"]["hits"]:
        found += [(hit["_id"], hit["_source"]) for hit in page["hits"]["hits"]]
        page = ask("_search/scroll", {"scroll": "1m", "scroll_id": page["_scroll_id"]})
    told("index", index, found)

with neo4j.GraphDatabase.driver("bolt://localhost:7687") as driver, driver.session() as session:
    for (label,) in session.run("CALL db.labels() YIELD label RETURN label ORDER BY label").values():
        told("label", label, session.run(f"MATCH (n:`{label}`) RETURN properties(n), labels(n)").values())
    for (kind,) in session.run("CALL db.relationshipTypes() YIELD relationshipType AS t RETURN t ORDER BY t").values():
        query = f"MATCH (a)-[r:`{kind}`]->(b) RETURN a.id, b.id, properties(r)"
        told("relationship", kind, session.run(query).values())
