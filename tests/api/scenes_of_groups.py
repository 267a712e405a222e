"""What the resource paths of groups and of changed messages do; see test_api_resources."""

from urllib.parse import quote

MESSAGE = "/v1/conversations/{conversation_id}/messages/{seq}"


def message(scene, end=""):
    """The path of Alice's first message."""
    return f"/v1/conversations/{scene.conversation}/messages/1{end}"


def shown(scene):
    """Alice's first message as Bob has it."""
    return scene.bob.get(f"/v1/conversations/{scene.conversation}/messages").done()["messages"][0]


def recall(scene):
    answer = scene.alice.ask("DELETE", message(scene))
    assert shown(scene)["recalled"] is True
    return answer


def edit(scene):
    answer = scene.alice.ask("PATCH", message(scene), {"body": "second"})
    assert (shown(scene)["body"], shown(scene)["edited_at"]) == ("second", answer.done()["edited_at"])
    return answer


def react(scene):
    answer = scene.bob.ask("PUT", message(scene, f"/reactions/{quote('👍')}"))
    assert shown(scene)["reactions"] == {"👍": [scene.bob.user]}
    return answer


def take_back(scene):
    react(scene)
    answer = scene.bob.ask("DELETE", message(scene, f"/reactions/{quote('👍')}"))
    assert "reactions" not in shown(scene)
    return answer


def receipts(scene):
    scene.bob.ask("PUT", f"/v1/conversations/{scene.conversation}/read", {"seq": 1}).done()
    answer = scene.alice.get(message(scene, "/receipts"))
    assert (answer.done()["read"], answer.json["unread_count"]) == ([scene.bob.user], 0)
    return answer


def delete_conversation(scene):
    answer = scene.bob.ask("DELETE", f"/v1/conversations/{scene.conversation}")
    assert scene.bob.get("/v1/conversations").done()["conversations"] == []
    return answer


def settings(scene):
    answer = scene.bob.ask("PATCH", f"/v1/conversations/{scene.conversation}/settings", {"muted": True})
    assert scene.bob.get("/v1/conversations").done()["conversations"][0]["muted"] is True
    return answer


# ---------------------------------------------------------------- groups


def made(scene, *, join="invite", members=True):
    """The path of a group of Alice's, with Bob in it."""
    others = [scene.bob.user] if members else []
    answer = scene.alice.post("/v1/groups", {"name": "Tea", "members": others, "join": join})
    return f"/v1/groups/{answer.done()['group_id']}"


def roles(scene, path):
    """Who belongs to it, as what."""
    members = scene.alice.get(f"{path}/members").done()["members"]
    return {member["user_id"]: member["role"] for member in members}


def create(scene):
    answer = scene.alice.post("/v1/groups", {"name": "Tea", "members": [scene.bob.user, "nobody-at-all"]})
    assert [one["user_id"] for one in answer.done()["failed"]] == ["nobody-at-all"]
    return answer


def list_groups(scene):
    path = made(scene)
    answer = scene.bob.get("/v1/groups?limit=5")
    assert [group["group_id"] for group in answer.done()["groups"]] == [path.rpartition("/")[2]]
    return answer


def get(scene):
    path = made(scene, join="approval", members=False)
    scene.bob.post(f"{path}/join", {"message": "me"}).done()
    answer = scene.alice.get(path)
    (request,) = answer.done()["group"]["join_requests"]
    assert (request["user_id"], request["message"]) == (scene.bob.user, "me")
    return answer


def update(scene):
    path = made(scene)
    answer = scene.alice.ask("PATCH", path, {"name": "Coffee", "announcement": "at four"})
    group = scene.bob.get(path).done()["group"]
    assert (group["name"], group["announcement"]) == ("Coffee", "at four")
    return answer


def dismiss(scene):
    path = made(scene)
    answer = scene.alice.ask("DELETE", path)
    scene.bob.get(path).refused(404)
    return answer


def list_members(scene):
    path = made(scene)
    assert roles(scene, path) == {scene.alice.user: "owner", scene.bob.user: "member"}
    return scene.bob.get(f"{path}/members?limit=1")


def add(scene):
    path = made(scene, members=False)
    answer = scene.alice.post(f"{path}/members", {"user_ids": [scene.bob.user, scene.alice.user]})
    assert answer.done()["added"] == [scene.bob.user]
    return answer


def remove(scene):
    path = made(scene)
    answer = scene.alice.ask("DELETE", f"{path}/members", {"user_ids": [scene.bob.user]})
    assert answer.done()["removed"] == [scene.bob.user]
    scene.bob.get(path).refused(403)
    return answer


def leave(scene):
    path = made(scene)
    answer = scene.bob.ask("DELETE", f"{path}/members/me")
    assert set(roles(scene, path)) == {scene.alice.user}
    return answer


def set_role(scene):
    path = made(scene)
    answer = scene.alice.ask("PUT", f"{path}/members/{scene.bob.user}/role", {"role": "admin"})
    assert roles(scene, path)[scene.bob.user] == "admin"
    return answer


def mute(scene):
    path = made(scene)
    answer = scene.alice.ask("PUT", f"{path}/members/{scene.bob.user}/mute", {"duration_ms": 60_000})
    said = {"conversation_id": f"g:{path.rpartition('/')[2]}", "body": "x", "client_id": "m-1"}
    scene.bob.post("/v1/messages", said).refused(403, "muted")
    return answer


def join(scene):
    path = made(scene, join="open", members=False)
    answer = scene.bob.post(f"{path}/join", {})
    assert answer.done()["joined"] is True
    return answer


def answer_join(scene):
    path = made(scene, join="approval", members=False)
    request_id = scene.bob.post(f"{path}/join", {}).done()["request_id"]
    answer = scene.alice.post(f"/v1/groups/requests/{request_id}", {"accept": True})
    answer.done()
    assert roles(scene, path)[scene.bob.user] == "member"
    return answer


SCENES = {
    ("DELETE", MESSAGE): recall,
    ("PATCH", MESSAGE): edit,
    ("PUT", f"{MESSAGE}/reactions/{{emoji}}"): react,
    ("DELETE", f"{MESSAGE}/reactions/{{emoji}}"): take_back,
    ("GET", f"{MESSAGE}/receipts"): receipts,
    ("DELETE", "/v1/conversations/{conversation_id}"): delete_conversation,
    ("PATCH", "/v1/conversations/{conversation_id}/settings"): settings,
    ("POST", "/v1/groups"): create,
    ("GET", "/v1/groups"): list_groups,
    ("GET", "/v1/groups/{group_id}"): get,
    ("PATCH", "/v1/groups/{group_id}"): update,
    ("DELETE", "/v1/groups/{group_id}"): dismiss,
    ("GET", "/v1/groups/{group_id}/members"): list_members,
    ("POST", "/v1/groups/{group_id}/members"): add,
    ("DELETE", "/v1/groups/{group_id}/members"): remove,
    ("DELETE", "/v1/groups/{group_id}/members/me"): leave,
    ("PUT", "/v1/groups/{group_id}/members/{user_id}/role"): set_role,
    ("PUT", "/v1/groups/{group_id}/members/{user_id}/mute"): mute,
    ("POST", "/v1/groups/{group_id}/join"): join,
    ("POST", "/v1/groups/requests/{request_id}"): answer_join,
}
