"""The way to one provider: what is due is looked at once more, handed over, and tried again later if that fails."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import trio
from attrs import asdict, define, frozen

from imserver.plugin import DeadlineExceeded, ImError, NotFound, RateLimited, StorageError, Unavailable
from imserver_plugins.push import store
from imserver_plugins.push.seam import Push

if TYPE_CHECKING:
    from imserver.plugin import AppContext, Message
    from imserver_plugins.push.offline import Confirmed
    from imserver_plugins.push.seam import Provider

#: Between two looks while nothing is heard: what was put off is found so.
LOOK_S: Final = 1.0
#: Between two notes of what became of a push, on a disk that fails.
_DISK_S: Final = 1.0
MAX_TEXT_CHARS: Final = 200
_MAX_REASON_CHARS: Final = 200
#: A provider that asks for more patience is asked again before.
_MAX_ASKED_MS: Final = 3_600_000


@define
class Counts:
    """Of one provider, since the start."""

    accepted: int = 0
    #: Confirmed, read, recalled or muted meanwhile: there was nothing to push any more.
    cancelled: int = 0
    #: Tokens of devices that are no more.
    gone: int = 0
    #: Refused for good, or too old.
    given_up: int = 0
    failures: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


@frozen
class _Result:
    """What became of one push to one device; `again_ms`: it is to be tried again, in so long at the earliest."""

    token: store.Token
    is_gone: bool = False
    is_refused: bool = False
    again_ms: int | None = None
    #: The provider did not work.
    is_trouble: bool = False
    reason: str = ""


class Lane:
    """One provider's task. It holds up nothing but its own pushes."""

    def __init__(self, ctx: AppContext, provider: Provider, confirmed: Confirmed) -> None:
        self._ctx = ctx
        #: Another instance of the same provider may take its place: a reload.
        self.provider = provider
        self._name = provider.provider
        self._confirmed = confirmed
        self._bell = trio.Event()
        self._troubles = 0
        #: Of our own, since a step went well.
        self._faults = 0
        self._log = ctx.log.bind(provider=self._name)
        self.counts = Counts()

    def ring(self) -> None:
        """There may be work."""
        self._bell.set()

    async def run(self) -> None:
        """The background task."""
        while True:
            self._bell = trio.Event()
            try:
                pause_s = await self.step()
                self._faults = 0
            except StorageError as exc:
                self._log.warning("push_storage_failed", error=str(exc))
                pause_s = _DISK_S
            except Exception:
                # Whatever it is: this task is all that pushes by this provider.
                self._log.exception("push_fault")
                pause_s = self._back_off_ms(self._faults) / 1000
                self._faults += 1
            if pause_s is None:
                with trio.move_on_after(LOOK_S):
                    await self._bell.wait()
            else:
                await trio.sleep(pause_s)

    async def step(self) -> float | None:
        """Hand over what is due; returns how long to wait then, None: until there is more to do."""
        ctx, now_ms = self._ctx, self._ctx.clock.now_ms()
        limit = ctx.settings.concurrency
        plans = await ctx.db.read_transaction(lambda read: store.plans(read, self._name, now_ms, limit))
        if not plans:
            return None
        results: list[list[_Result] | None] = [None] * len(plans)
        faulty: dict[int, str] = {}
        limiter = trio.CapacityLimiter(limit)  # a user may have several devices

        async def carry_out(index: int, plan: store.Plan) -> None:
            try:
                results[index] = await self._carry_out(plan, limiter)
            except StorageError as exc:
                faulty[index] = str(exc)
            except Exception as exc:
                self._log.error("push_fault", user=plan.job.user_id, exc_info=exc)
                faulty[index] = "the server made a mistake"

        async with trio.open_nursery() as nursery:
            for index, plan in enumerate(plans):
                nursery.start_soon(carry_out, index, plan)
        # Where nobody is left to tell, the next message need not find that out again.
        silent = {plan.job.user_id for plan in plans if not plan.tokens}
        statements = [store.forget_ended(user_id) for user_id in sorted(silent)]
        for index, (plan, result) in enumerate(zip(plans, results, strict=True)):
            statements += self._put_off(plan.job, faulty[index]) if index in faulty else self._settled(plan.job, result)
        if faulty:
            self._log.warning("push_put_off", pushes=len(faulty), reason=next(iter(faulty.values())))
        await self._write(statements)
        return self._pause_s([one for result in results for one in result or ()])

    # ------------------------------------------------------------ one push

    async def _carry_out(self, plan: store.Plan, limiter: trio.CapacityLimiter) -> list[_Result] | None:
        """Push to all devices that have not got it; None: there is nothing to push any more."""
        job = plan.job
        if plan.seq is None or self._confirmed(job.user_id, job.number) >= plan.seq:
            return None
        page = await self._ctx.messages.history(
            plan.conversation_id, after_seq=plan.seq - 1, before_seq=plan.seq + 1, limit=1
        )
        if not page.messages or page.messages[0].recalled:
            return None
        done = set(msgspec.json.decode(job.done, type=list[str]))
        tokens = [token for token in plan.tokens if token.token not in done]
        results: list[_Result] = []

        async def send(token: store.Token) -> None:
            async with limiter:
                results.append(await self._send(self._push(plan, token, page.messages[0]), token))

        async with trio.open_nursery() as nursery:
            for token in tokens:
                nursery.start_soon(send, token)
        return results

    def _push(self, plan: store.Plan, token: store.Token, message: Message) -> Push:
        settings = self._ctx.settings
        text = settings.generic_text
        if settings.preview and message.type == "text" and isinstance(message.body, str) and message.body.strip():
            text = message.body if len(message.body) <= MAX_TEXT_CHARS else message.body[: MAX_TEXT_CHARS - 1] + "…"
        return Push(
            token=token.token,
            app=token.app,
            user_id=plan.job.user_id,
            conversation_id=message.conversation_id,
            seq=message.seq,
            message_id=message.message_id,
            sender=message.sender,
            type=message.type,
            sent_at=message.sent_at,
            title=plan.names.get(message.sender, message.sender),
            text=text,
            unread=plan.unread,
            badge=plan.badge,
            collapse_id=collapse_id_of(plan.job.user_id, message.conversation_id),
            expires_at=message.sent_at + round(settings.give_up_after_s * 1000),
        )

    async def _send(self, push: Push, token: store.Token) -> _Result:
        """Hand it over; whatever happens costs this push alone."""
        try:
            with trio.fail_after(self._ctx.settings.timeout_s):
                await self.provider.send(push)
        except NotFound as exc:
            return _Result(token, is_gone=True, reason=exc.message)
        except RateLimited as exc:
            return _Result(token, again_ms=exc.retry_after_ms or 0, reason=exc.message)
        except (Unavailable, DeadlineExceeded) as exc:
            return _Result(token, again_ms=exc.retry_after_ms or 0, is_trouble=True, reason=exc.message)
        except ImError as exc:
            return _Result(token, is_refused=True, reason=exc.message)
        except trio.TooSlowError:
            return _Result(token, again_ms=0, is_trouble=True, reason=f"no answer in {self._ctx.settings.timeout_s:g} s")
        except OSError as exc:
            return _Result(token, again_ms=0, is_trouble=True, reason=f"{type(exc).__name__}: {exc}")
        except Exception:
            self._log.exception("push_provider_fault")
            return _Result(token, again_ms=0, is_trouble=True, reason="the provider's plugin has failed")
        return _Result(token)

    # ------------------------------------------------------------ what became of it

    def _settled(self, job: store.Job, results: Sequence[_Result] | None) -> list[store.Statement]:
        if results is None:
            self.counts.cancelled += 1
            return [store.finish(job)]
        statements = [store.bury(one.token) for one in results if one.is_gone]
        for one in results:
            if one.is_gone:
                self.counts.gone += 1
                self._log.info("push_token_gone", user=job.user_id, reason=one.reason[:_MAX_REASON_CHARS])
            elif one.is_refused:
                self.counts.given_up += 1
                self._log.warning("push_refused", user=job.user_id, reason=one.reason[:_MAX_REASON_CHARS])
            elif one.again_ms is None:
                self.counts.accepted += 1
            else:
                self.counts.failures += 1
        again = [one for one in results if one.again_ms is not None]
        if not again:
            return [*statements, store.finish(job)]
        done = msgspec.json.decode(job.done, type=list[str])
        done += [one.token.token for one in results if one.again_ms is None]
        asked_ms = min(max(one.again_ms or 0 for one in again), _MAX_ASKED_MS)
        again_later = self._again(job, msgspec.json.encode(done).decode(), asked_ms, again[0].reason, len(again))
        return [*statements, again_later]

    def _put_off(self, job: store.Job, reason: str) -> list[store.Statement]:
        """It could not even be found out what there is to push."""
        self.counts.failures += 1
        return [self._again(job, job.done, 0, reason, 1)]

    def _again(self, job: store.Job, done: str, asked_ms: int, reason: str, pushes: int) -> store.Statement:
        """Another try later, unless it is too late for one."""
        now_ms = self._ctx.clock.now_ms()
        if job.made_at < now_ms - round(self._ctx.settings.give_up_after_s * 1000):
            self.counts.given_up += pushes
            self._log.error("push_gave_up", user=job.user_id, reason=reason[:_MAX_REASON_CHARS])
            return store.finish(job)
        return store.postpone(job, now_ms + max(self._back_off_ms(job.failures), asked_ms), job.failures + 1, done)

    def _back_off_ms(self, failures: int) -> int:
        """Twice as long each time, with jitter."""
        settings = self._ctx.settings
        longest: float = min(settings.retry_most_s, settings.retry_first_s * 2.0 ** min(failures, 40))
        return round(1000 * longest * self._ctx.random.uniform(0.5, 1.0))

    def _pause_s(self, results: Sequence[_Result]) -> float:
        """A provider that does not work is left alone for a while; one that does is not waited for."""
        troubles = [one for one in results if one.is_trouble]
        if not troubles or len(troubles) < len(results):
            if self._troubles and results:
                self._log.info("push_provider_works_again", failures=self._troubles)
                self._troubles = 0
            return 0.0
        self._troubles += 1
        if self._troubles & (self._troubles - 1) == 0:  # the 1st, 2nd, 4th, 8th …
            reason = troubles[0].reason[:_MAX_REASON_CHARS]
            self._log.warning("push_provider_failed", reason=reason, failures=self._troubles)
        most_ms = round(self._ctx.settings.retry_most_s * 1000)
        asked_ms = min(max(one.again_ms or 0 for one in troubles), most_ms)
        return float(max(self._back_off_ms(self._troubles - 1), asked_ms) / 1000)

    async def _write(self, statements: Sequence[store.Statement]) -> None:
        """Note it; on a disk that fails until it is mended, rather than push again and again."""
        while True:
            try:
                await self._ctx.db.write_all(statements)
                return
            except StorageError as exc:
                self._log.warning("push_storage_failed", error=str(exc))
                await trio.sleep(_DISK_S)


def collapse_id_of(user_id: str, conversation_id: str) -> str:
    """The same for all pushes of a conversation to a user; it tells nobody which one that is."""
    return hashlib.sha256(f"{user_id}\n{conversation_id}".encode()).hexdigest()[:32]
