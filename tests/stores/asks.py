"""A client of a data store: `asks.py KIND TIMES PORT`. Asks some, says "ready", waits for a line, asks so many times, and leaves."""

import asyncio
import sys

kind, times, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
HOST = {"host": "127.0.0.1", "port": port}


def pause():
    print("ready", flush=True)
    sys.stdin.readline()


if kind == "redis":
    import redis

    one = redis.Redis(port=port, lib_name=None, lib_version=None)
    for n in range(times + 20):
        if n == 20:
            pause()
        one.set("key", n) if n % 2 else one.get("key")
    one.connection_pool.disconnect()
elif kind == "memcached":
    from pymemcache.client.base import Client

    one = Client(("127.0.0.1", port), default_noreply=False)
    for n in range(times + 20):
        if n == 20:
            pause()
        one.set("key", str(n)) if n % 2 else one.get("key")
    one.close()
elif kind in ("psycopg", "pipeline"):
    import psycopg

    one = psycopg.connect(**HOST, user="test", dbname="postgres", sslmode="disable", autocommit=True)
    if kind == "psycopg":
        for n in range(times + 20):
            if n == 20:
                pause()
            one.execute("select %s::int", (n,), prepare=True)
    else:
        pause()
        for _ in range(times // 50):
            with one.pipeline():
                for n in range(50):
                    one.execute("select %s::int", (n,))
    one.close()
elif kind == "asyncpg":
    import asyncpg

    async def ask():
        one = await asyncpg.connect(**HOST, user="test", database="postgres", ssl=False)
        pause()
        for n in range(times):
            await one.fetchval("select $1::int", n)
        await one.close()

    asyncio.run(ask())
elif kind == "pg8000":
    import pg8000.dbapi

    one = pg8000.dbapi.connect(**HOST, user="test", database="postgres")
    pause()
    cursor = one.cursor()
    for n in range(times):
        cursor.execute("select %s::int", (n,))
        cursor.fetchall()
    one.commit()
    one.close()
elif kind == "pymysql":
    import pymysql

    one = pymysql.connect(**HOST, user="root", database="shop", autocommit=True)
    with one.cursor() as cursor:
        for n in range(times + 20):
            if n == 20:
                pause()
            cursor.execute(f"select {n}")
            cursor.fetchall()
    one.close()
else:
    import mysql.connector

    one = mysql.connector.connect(
        **HOST, user="root", database="shop", use_pure=True, ssl_disabled=True, autocommit=True
    )
    cursor = one.cursor(prepared=True)
    for n in range(times + 20):
        if n == 20:
            pause()
        cursor.execute("select %s + 1", (n,))
        cursor.fetchall()
    cursor.close()
    one.close()
