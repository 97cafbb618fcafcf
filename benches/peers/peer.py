"""Does one task with a public Bitrix24 library and prints the seconds it took, or the error it ended with, as JSON.

Usage: peer.py LIBRARY TASK WEBHOOK_URL COUNT, with LIBRARY `fast_bitrix24` or `b24pysdk` and TASK `list`, `rows` or
`write`. Each library is used as its own README recommends for many records, with the settings it comes with.
"""

import json
import sys
import time
from urllib.parse import urlsplit

STATUS = "UF_CRM_SYNC_STATUS"
FIRST_CONTACT = 1_000
FIRST_DEAL = 100_000


def fields_of(index):
    return {STATUS: f"Успешно {index}"}


def with_fast_bitrix24(url):
    from fast_bitrix24 import Bitrix

    portal = Bitrix(url, verbose=False)
    return {
        "list": lambda count: len(portal.get_all("crm.contact.list", {"select": ["ID", "NAME", "LAST_NAME", "PHONE"]})),
        "rows": lambda count: len(
            portal.get_by_ID("crm.deal.productrows.get", [str(FIRST_DEAL + n) for n in range(count)])
        ),
        "write": lambda count: len(
            portal.call(
                "crm.contact.update", [{"ID": FIRST_CONTACT + n, "fields": fields_of(n)} for n in range(count)]
            )
        ),
    }


def with_b24pysdk(url):
    from b24pysdk import BitrixWebhook, Client
    from b24pysdk.api.callers.call_method import _MethodCaller

    parts = urlsplit(url)
    # The library knows only https, the simulator speaks plain HTTP on loopback.
    _MethodCaller._base_url = property(lambda caller: f"http://{caller._domain}/rest")
    token = BitrixWebhook(domain=parts.netloc, webhook_token=parts.path.removeprefix("/rest/").strip("/"))
    client = Client(token)

    def read(count):
        request = client.crm.contact.list(select=["ID", "NAME", "LAST_NAME", "PHONE"])
        return sum(1 for _ in request.as_list_fast().result)

    def batches(calls):
        result = token.call_batches(calls)["result"]
        if result["result_error"]:
            raise RuntimeError(f"{len(result['result_error'])} commands failed")
        return len(result["result"])

    return {
        "list": read,
        "rows": lambda count: batches([("crm.deal.productrows.get", {"id": FIRST_DEAL + n}) for n in range(count)]),
        "write": lambda count: batches(
            [("crm.contact.update", {"id": FIRST_CONTACT + n, "fields": fields_of(n)}) for n in range(count)]
        ),
    }


def main():
    library, task, url, count = sys.argv[1:]
    tasks = {"fast_bitrix24": with_fast_bitrix24, "b24pysdk": with_b24pysdk}[library](url)
    started = time.perf_counter()
    done, error = 0, None
    try:
        done = tasks[task](int(count))
    except Exception as failure:
        error = f"{type(failure).__name__}: {str(failure)[:200]}"
    print(json.dumps({"seconds": time.perf_counter() - started, "done": done, "error": error}))


if __name__ == "__main__":
    main()
