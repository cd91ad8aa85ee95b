"""A shop that announces its orders, with plain SQL.

    DATABASE_URL=postgres://localhost/shop python3 shop.py
"""

import json
import os
import sys
import time

import psycopg

TABLE = """
    CREATE TABLE IF NOT EXISTS sidecar_orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer text NOT NULL,
        total_cents bigint NOT NULL CHECK (total_cents > 0)
    )
"""


def place_order(connection, customer, total_cents):
    """Places an order, and announces it, in one transaction."""
    with connection.transaction():
        (order_id,) = connection.execute(
            "INSERT INTO sidecar_orders (customer, total_cents) VALUES (%s, %s) RETURNING id",
            (customer, total_cents),
        ).fetchone()
        publish(
            connection,
            topic="orders",
            key=customer,
            event_type="OrderPlaced",
            payload={"order_id": order_id, "customer": customer, "total_cents": total_cents},
            headers={"currency": "EUR"},
        )
        charge(customer, total_cents)


def publish(connection, topic, payload, key=None, event_type=None, headers=None):
    """Writes a message in the transaction that is open."""
    headers = [{"key": name, "value": value} for name, value in (headers or {}).items()]
    connection.execute(
        "INSERT INTO outbox (topic, key, payload, headers, event_type) VALUES (%s, %s, %s, %s, %s)",
        (
            topic,
            key.encode() if key is not None else None,
            json.dumps(payload).encode(),
            json.dumps(headers),
            event_type,
        ),
    )


def charge(customer, total_cents):
    """Whatever fails after the message was written takes it back with everything else."""
    if customer == "mallory":
        raise PermissionError(f"the card of {customer} was refused")


def main():
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        if "--no-table" not in sys.argv:
            connection.execute(TABLE)
        for customer, total_cents in [("ada", 4200), ("mallory", 100), ("ada", 700)]:
            try:
                place_order(connection, customer, total_cents)
                print(f"placed an order of {customer}")
            except PermissionError as error:
                print(error)
        if "--no-wait" not in sys.argv:
            # A service would go on with its work. This one is curious.
            while connection.execute("SELECT EXISTS (SELECT FROM outbox)").fetchone()[0]:
                time.sleep(0.1)
            print("everything is delivered")


if __name__ == "__main__":
    main()
