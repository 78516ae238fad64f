"""``stateful-route pods``."""

from stateful_route.cli.ending import FAILED, say
from stateful_route.cli.operators import Asking, ServiceAskOptions, ask
from stateful_route.cli.options import documented
from stateful_route.cli.shown import in_all, pods_table


@documented
def pods(*, options: ServiceAskOptions | None = None) -> int:
    """List the pods of a service: state, links, load, age of the heartbeat.

    Those that have died, or said goodbye, are listed until Redis forgets them, a day later by default. LINKS and LOAD
    are what a pod published last; PLACED is how many uids it took on in its life. DEAD: its death was confirmed.
    SILENT: no heartbeat came within its lease, and nobody has needed to confirm its death yet.

    Exit status 1 if the service has no pods.
    """
    return ask(options or ServiceAskOptions(), _pods)


async def _pods(asking: Asking) -> int:
    service_name = await asking.service()
    seen = await asking.operator.pods(service_name)
    if asking.out.json:
        identity = {"namespace": asking.config.namespace, "serviceName": service_name}
        asking.out.record(identity | seen.to_dict())
    elif seen.pods:
        asking.out.show(pods_table(seen.pods), "", in_all(seen.pods))
    if seen.unreadable:
        say(f"{seen.unreadable} entries cannot be read, and were left out")
    if not seen.pods:
        say(f"no pod of service {service_name!r} was ever seen in namespace {asking.config.namespace!r}")
        return FAILED
    return 0
