"""How the state of a uid goes from one pod to another: for who writes a carrier of states."""

from stateful_route.server.parcels import Adopt, Parcel, StateCarrier, StateReceiver, Verdict

__all__ = ["Adopt", "Parcel", "StateCarrier", "StateReceiver", "Verdict"]
