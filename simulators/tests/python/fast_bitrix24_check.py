"""Talks to a Bitrix24 webhook with the public library fast_bitrix24 and prints what it saw as JSON."""

import json
import sys

from fast_bitrix24 import Bitrix

STATUS = "UF_CRM_SYNC_STATUS"


def error_of(call):
    try:
        call()
    except Exception as error:
        return str(error)
    return None


def main():
    portal = Bitrix(sys.argv[1], verbose=False)
    contacts = portal.get_all("crm.contact.list", {"select": ["ID", "PHONE"], "filter": {">ID": 0}})
    deals = portal.get_all("crm.deal.list", {"filter": {"STAGE_SEMANTIC_ID": "S"}})
    items = portal.get_all("crm.item.list", {"entityTypeId": 2, "select": ["id"]})
    rows = portal.get_by_ID("crm.deal.productrows.get", ["100000", "100001", "100119"])
    updates = [
        {"ID": contact, "fields": {STATUS: f"Статус {contact} + 100 % & ещё"}} for contact in range(1000, 1120)
    ]
    updated = portal.call("crm.contact.update", updates)
    users = portal.get_all("user.get", {"filter": {"ID": 101}})
    missing = error_of(lambda: portal.call("crm.contact.update", [{"ID": 5, "fields": {STATUS: "x"}}]))
    seen = {
        "contacts": sorted(int(contact["ID"]) for contact in contacts if contact["PHONE"]),
        "deals": len(deals),
        "items": len(items),
        "rows": sorted(rows),
        "updated": sum(result is True for result in updated),
        "user": users[0]["ID"],
        "missing": missing,
    }
    print(json.dumps(seen, ensure_ascii=False))


if __name__ == "__main__":
    main()
