// Adaptation of many clients with a small fully connected network: their updates, or their predictions.
//
// fused.h has the network, fused_steps.h the steps, fused_updates.h what is done with them; this file adds
// the clients up. The sum over clients is exact (lane_sums.h), so threads may share the clients, and add
// their sums in any order.

#include <algorithm>
#include <mutex>

#include "fused_updates.h"
#include "lane_sums.h"
#include "threads.h"

extern "C" {
struct Result {
  double* limbs;           // 3 * sent entries, added to
  void* stack;             // count * sent entries, or null
  void* own;               // count * kept entries after the steps, or null
  double *before, *after;  // losses
  uint8_t* sound;          // whether an update is finite and small enough to be added
  double limit;            // for |weight * update|
};
}

namespace {

// Compute the updates of clients, as long as there are some; add up their limbs.
template <typename T>
void run(const Network& net, const Recipe& recipe, const T* theta, const Clients& clients, Result out,
         Memory<T>& memory, Turns& turns, std::mutex& adding) {
  constexpr int lanes = Lanes<T>::count;
  Block<T> block(net, recipe, theta, memory);
  int64_t P = block.sent();
  Doubles* sums = memory.sums.of(out.stack ? 0 : LIMBS * P);
  bool large = false;  // whether a number has a first limb; without, its sums are not used
  if (!out.stack) std::fill_n((double*)(sums + P), (LIMBS - 1) * P * DOUBLES, 0.0);
  for (int64_t first; (first = turns.next()) < clients.count;) {
    int used = int(clients.count - first < lanes ? clients.count - first : lanes);
    block.load(clients, first, used);
    block.prefetch(clients, first + lanes, first + 2 * lanes);
    Vec<T> before, after, largest{};
    const Vec<T>* v = block.update(before, after);
    Int<T> number = largest == largest;
    for (int64_t i = 0; i < P; i++) {
      number &= v[i] == v[i];
      largest = larger(largest, absolute(v[i]));
    }
    double weight[lanes] = {}, most = 0;
    for (int lane = 0; lane < used; lane++) {
      int64_t client = clients.order[first + lane];
      double whole = clients.weight[client];
      bool sound = number[lane] && double(largest[lane]) * whole < out.limit;
      out.sound[client] = sound;
      out.before[client] = before[lane];
      out.after[client] = after[lane];
      weight[lane] = sound ? whole : 0.0;
      if (sound) most = std::max(most, double(largest[lane]) * whole);
      if (out.own) block.keep(lane, clients, (T*)out.own + client * clients.kept);
      if (out.stack)
        for (int64_t i = 0; i < P; i++) ((T*)out.stack)[client * P + i] = v[i][lane];
    }
    if (out.stack) continue;
    if (most < SPACING[0] / 2) {
      add_exactly<T, 1>(v, weight, P, sums);
    } else {
      if (!large) std::fill_n((double*)sums, P * DOUBLES, 0.0);
      large = true;
      add_exactly<T, 0>(v, weight, P, sums);
    }
  }
  if (out.stack) return;
  std::lock_guard<std::mutex> alone(adding);
  for (int64_t i = large ? 0 : P; i < LIMBS * P; i++) out.limbs[i] += sum_of(sums[i]);
}

template <typename T>
void updates(const Network& net, const Recipe& recipe, const T* theta, const Clients& clients, Result out,
             int threads) {
  std::mutex adding;
  on_threads<Memory<T>>(threads, clients.count, Lanes<T>::count, [&](Memory<T>& memory, Turns& turns) {
    run(net, recipe, theta, clients, out, memory, turns, adding);
  });
}

template <typename T>
void predict(const Network& net, const Recipe& recipe, const T* theta, const Clients& clients, Stages stages,
             int threads) {
  constexpr int lanes = Lanes<T>::count;
  on_threads<Memory<T>>(threads, clients.count, lanes, [&](Memory<T>& memory, Turns& turns) {
    Block<T> block(net, recipe, theta, memory);
    for (int64_t first; (first = turns.next()) < clients.count;) {
      int used = int(clients.count - first < lanes ? clients.count - first : lanes);
      block.load(clients, first, used);
      block.prefetch(clients, first + lanes, first + 2 * lanes);
      block.predict(clients, first, used, stages);
    }
  });
}

}  // namespace

extern "C" void fused_float32(const Network* net, const Recipe* recipe, const float* theta,
                              const Clients* clients, const Result* out, int32_t threads) {
  updates<float>(*net, *recipe, theta, *clients, *out, threads);
}
extern "C" void fused_float64(const Network* net, const Recipe* recipe, const double* theta,
                              const Clients* clients, const Result* out, int32_t threads) {
  updates<double>(*net, *recipe, theta, *clients, *out, threads);
}
extern "C" void fused_predictions_float32(const Network* net, const Recipe* recipe, const float* theta,
                                          const Clients* clients, const Stages* stages, int32_t threads) {
  predict<float>(*net, *recipe, theta, *clients, *stages, threads);
}
extern "C" void fused_predictions_float64(const Network* net, const Recipe* recipe, const double* theta,
                                          const Clients* clients, const Stages* stages, int32_t threads) {
  predict<double>(*net, *recipe, theta, *clients, *stages, threads);
}
