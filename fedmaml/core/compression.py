"""Compression of updates: the setting, and error feedback.

    client    p = update + residual;    sends  code = encode(p);    residual <- p - decode(code)
    server    aggregates decode(code) as it would have aggregated update

``encode`` and ``decode`` are a compressor's, see `core.compressors`. The rest of the first line is
error feedback: what a code leaves out is added to the client's next update, so that over time
everything is sent. Where it is on by default:

    top-k      yes. It is biased; without feedback it need not converge, with it it does, as it is a
               contraction, |x - C(x)|^2 <= (1 - k/d) |x|^2 (Stich et al., Karimireddy et al.)
    qsgd       no. It is unbiased, so the errors average out without (Alistarh et al.)
    float16    no. Its relative error is 2^-11 at most above 2^-14 in magnitude

Seide, Fu, Droppo, Li, Yu. 1-bit stochastic gradient descent. Interspeech 2014 (error feedback).
Alistarh, Grubic, Li, Tomioka, Vojnovic. QSGD. NeurIPS 2017. arXiv:1610.02132
Stich, Cordonnier, Jaggi. Sparsified SGD with memory. NeurIPS 2018. arXiv:1809.07599
Karimireddy, Rebjock, Stich, Jaggi. Error feedback fixes SignSGD. ICML 2019. arXiv:1901.09847
Deviations: the papers compress gradients of SGD on workers that all take part in every step; here
updates of any strategy are compressed, clients may be absent (a residual waits for its client), and
the outer optimiser may be other than SGD. Each group of meta-parameters is compressed by itself.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Le

from fedmaml.core.settings import settings

if TYPE_CHECKING:  # a setting is checked without PyTorch
    from fedmaml.core.compressors import CodeLayout, Compressor
    from fedmaml.core.params import MetaParams, Params

Method = Literal["none", "float16", "qsgd-8", "qsgd-4", "top-k"]


@settings
class Compression:
    """How clients compress their updates.

    Attributes:
        method: "none", "float16", "qsgd-8", "qsgd-4" or "top-k".
        fraction: Of the entries that "top-k" sends; an entry takes 8 bytes, so 0.5 saves nothing.
        error_feedback: Whether a client keeps what the code left out and adds it to its next
            update; "auto": the default of the method, see the module docstring.
    """

    method: Method = "none"
    fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    error_feedback: Literal["auto", True, False] = "auto"

    def compressor(self) -> "Compressor | None":
        """Return the compressor; None if nothing is compressed."""
        if self.method == "none":
            return None
        from fedmaml.core.compressors import compressor

        return compressor(self.method, self.fraction)

    def first_residual(self, meta: "MetaParams") -> "Params":
        """Return the residual before a client's first round: zeros, flat, by group.

        Empty without error feedback.
        """
        compressor = self.compressor()
        if compressor is None:
            return {}
        on = compressor.feedback if self.error_feedback == "auto" else self.error_feedback
        if not on:
            return {}
        return {
            group: next(iter(params.values())).new_zeros(_entries(params), device="cpu")
            for group, params in meta.items()
        }

    def payload_bytes(self, meta: "MetaParams") -> int:
        """Return the bytes of one client's update, as it is sent."""
        compressor = self.compressor()
        total = 0
        for params in meta.values():
            entries, dtype = _entries(params), next(iter(params.values())).dtype
            if compressor is None:
                total += entries * dtype.itemsize
            else:
                total += code_bytes(compressor.layout(entries, dtype))
        return total


NO_COMPRESSION = Compression()


def code_bytes(layout: "CodeLayout") -> int:
    """Return the bytes of one client's code."""
    return sum(dtype.itemsize * count for dtype, count in layout.values())


def _entries(params: "Params") -> int:
    return sum(value.numel() for value in params.values())
