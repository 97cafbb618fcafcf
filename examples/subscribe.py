"""Prints what came of every record, from the beginning and then live: subscribe.py NAME

NATS_URL says where; NATS_NKEY_SEED_FILE names the secret that `rollcall credentials --consumer NAME` made, or nothing
where the server lets everybody in. Needs nats-py and nkeys as tools/test.requirements.txt pins them.
"""

import asyncio
import json
import os
import sys

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy


async def main(name):
    seed = os.environ.get("NATS_NKEY_SEED_FILE")
    client = await nats.connect(os.environ["NATS_URL"], nkeys_seed=seed, inbox_prefix=f"_INBOX_{name}")
    jetstream = client.jetstream(prefix="rollcall" if seed else "$JS.API")
    # Durable: after a restart it goes on where it stopped. The policy says where it begins the first time.
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
    inbox = await jetstream.pull_subscribe("crm.result.>", durable=name, stream="CRM_RESULT", config=config)
    newest = {}
    while True:
        try:
            messages = await inbox.fetch(100, timeout=5)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            record = message.headers["ce-subject"]
            version = (int(message.headers["ce-rawsequence"]), int(message.headers["ce-redrive"]))
            if version > newest.get(record, (0, 0)):  # A message may come twice.
                newest[record] = version
                data = json.loads(message.data)
                print(f"{record} {data['outcome']}: {data['status']}", flush=True)
            await message.ack()


asyncio.run(main(sys.argv[1]))
