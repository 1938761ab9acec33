// Adaptation of many clients with a small fully connected network: their updates, or their predictions.
//
// fused.h has the network; this file has what is done with it, k steps and then
//
//   step      phi <- phi - lr (grad L(phi) + proximal (phi - theta)),  or with rates of each entry
//             phi <- phi - rates o grad L(phi);  layers outside [low, high) stay as they are
//   exact     MAML's gradient is v_0 of  v_k = grad L_query(phi_k),  v_t = v_{t+1} - H_t (rates o v_{t+1}),
//             H_t the Hessian of L_support at phi_t; the gradient in the rates is the sum over t of
//             - grad L_support(phi_t) o v_{t+1}. Only phi_0 .. phi_k are kept; activations are computed
//             again.
//
// phi starts at theta and, behind it, at what the client keeps as its own (its layers from "high" on),
// which may take steps by itself before all others. The sum over clients is exact (lane_sums.h), so threads
// may share the clients, and add their sums in any order.

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>

#include "fused.h"
#include "lane_sums.h"
#include "threads.h"

extern "C" {
struct Recipe {
  int32_t sends;  // 0: first-order gradient, 1: exact gradient, 2: theta - phi on all rows, 3: nothing
  int32_t steps;
  double lr, proximal;
  int32_t low, high;   // layers that move
  const void* rates;   // of each entry, or null; they are learned, so the exact gradient has theirs, too
  int32_t own_steps;   // of layers from "high" on, first
  double own_lr;
};
struct Result {
  double* limbs;           // 3 * sent entries, added to
  void* stack;             // count * sent entries, or null
  void* own;               // count * own entries after the steps, or null
  double *before, *after;  // losses
  uint8_t* sound;          // whether an update is finite and small enough to be added
  double limit;            // for |weight * update|
};
struct Stages {
  int32_t count;
  const int32_t* steps;  // at which predictions are wanted, rising
  void* const* to;       // of each client: its predictions, rows * outputs, at the first stage
  const int64_t* apart;  // of each client: entries from one stage to the next
  uint8_t* sound;        // count for each client: whether its predictions are finite
};
}

namespace {

template <typename V> class Room {  // for vectors; it only grows, and holds what was left in it
  std::unique_ptr<V[]> values;
  int64_t size = 0;

 public:
  V* of(int64_t count) {
    if (count > size) values.reset(new V[size = count]);
    return values.get();
  }
};

// Memory of one thread, kept from call to call: new memory costs a small cohort as much as its mathematics.
template <typename T> struct Memory {
  Batch<T> part[2];
  Room<Vec<T>> theta, rates, phi, gradient, product, moved;
  Room<Doubles> sums;
};

template <typename T> class Block {  // the computation of the clients of one vector
  typedef Vec<T> V;
  static constexpr int lanes = Lanes<T>::count;
  const Network& net;
  const Recipe& recipe;
  Chain<T> chain;
  Batch<T>* part;  // support (or all rows), query
  V *theta, *rates = nullptr, *phi, *gradient, *product, *moved = nullptr;

 public:
  Block(const Network& net, const Recipe& recipe, const T* start, Memory<T>& memory)
      : net(net), recipe(recipe), chain(net, recipe.sends == 1), part(memory.part) {
    theta = memory.theta.of(net.entries);
    for (int64_t i = 0; i < net.shared; i++) theta[i] = all<T>(start[i]);
    if (recipe.rates) {
      rates = memory.rates.of(net.entries);
      for (int64_t i = 0; i < net.entries; i++) rates[i] = all<T>(((const T*)recipe.rates)[i]);
      moved = memory.moved.of(net.entries);
    }
    phi = memory.phi.of((recipe.sends == 1 ? recipe.steps + 1 : 1) * net.entries);
    gradient = memory.gradient.of(sent());
    product = memory.product.of(net.entries);
  }

  bool exact() const { return recipe.sends == 1; }
  int64_t sent() const { return recipe.rates ? 2 * net.entries : net.shared; }

  void load(const Clients& from, int64_t first, int used) {
    bool both = recipe.sends == 2;
    chain.load(part[0], from, 0, both ? 2 : 1, first, used);
    if (!both) chain.load(part[1], from, 1, 2, first, used);
    int64_t own = net.entries - net.shared;
    for (int lane = 0; own && lane < lanes; lane++) {
      const T* values = (const T*)from.own + from.order[first + (lane < used ? lane : 0)] * own;
      for (int64_t i = 0; i < own; i++) theta[net.shared + i][lane] = values[i];
    }
  }

  // Ask for the examples of coming clients, which reach the cache while others are computed.
  void prefetch(const Clients& from, int64_t first, int64_t end) {
    for (int64_t i = first; i < std::min(end, from.count); i++)
      for (int source = 0; source < 2; source++) {
        int64_t client = from.order[i];
        int64_t bytes = from.rows[source][client] * net.width[0] * int64_t(sizeof(T));
        const char* x = (const char*)from.x[source][client];
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(x + at, 0, 2);
      }
  }

  // Compute the block's updates; the losses without and with adaptation go to before and after.
  const V* update(V& before, V& after) {
    int64_t P = net.entries;
    Batch<T> &local = part[0], &evaluated = part[recipe.sends == 2 ? 0 : 1];
    V* point = begin();
    before = chain.forward(evaluated, point);
    int valid = &local == &evaluated ? net.layers : 0;  // layers whose h is known
    for (int done = 0; done < recipe.own_steps; done++, valid = recipe.high)
      step(local, point, point, valid, recipe.high, net.layers, recipe.own_lr, 0);
    for (int done = 0; done < recipe.steps; done++, valid = recipe.low, point += exact() ? P : 0)
      step(local, point, exact() ? point + P : point, valid);
    after = chain.forward(evaluated, point, true, recipe.sends == 2 ? 0 : recipe.low);
    V* v = gradient;
    if (recipe.sends == 3) {
      std::fill_n((T*)v, sent() * lanes, T(0));
    } else if (recipe.sends == 2) {
      before += chain.penalty(theta), after += chain.penalty(point);
      for (int64_t i = 0; i < net.shared; i++) v[i] = theta[i] - point[i];
    } else {
      chain.template backward<ZERO>(evaluated, point, v, 1, 0, net.layers);
      if (recipe.rates) std::fill_n((T*)(v + P), P * lanes, T(0));
      for (int done = exact() ? recipe.steps : 0; done > 0; done--)
        through_step(local, point -= P, v, done == recipe.steps);
    }
    return v;
  }

  // Compute the block's predictions at all stages.
  void predict(const Clients& from, int64_t first, int used, const Stages& stages) {
    Batch<T> &local = part[0], &evaluated = part[1];
    V* point = begin();
    for (int stage = 0, done = 0; stage < stages.count; stage++) {
      for (; done < stages.steps[stage]; done++) step(local, point, point, done ? recipe.low : 0);
      chain.propagate(evaluated, point, stage ? recipe.low : 0);
      int O = net.width[net.layers];
      T* to[lanes];
      int64_t shared = evaluated.rows * O;
      for (int lane = 0; lane < lanes; lane++) {
        int64_t client = from.order[first + (lane < used ? lane : 0)];
        to[lane] = (T*)stages.to[client] + stage * stages.apart[client];
        shared = std::min(shared, from.rows[1][client] * O);
      }
      const V* z = evaluated.h[net.layers].data();
      Int<T> finite = ~Int<T>{};
      for (int i = 0; i < evaluated.rows * O; i++) finite &= z[i] - z[i] == 0;
      int64_t laid = used == lanes ? part_again<T>(z, to, shared) : 0;
      for (int lane = 0; lane < used; lane++) {
        int64_t own = from.rows[1][from.order[first + lane]] * O;
        for (int64_t i = laid; i < own; i++) to[lane][i] = z[i][lane];
        stages.sound[stage * from.count + from.order[first + lane]] = finite[lane] != 0;
      }
    }
  }

  // Write what a lane's client keeps, after its steps.
  void keep(int lane, T* own) const {
    for (int64_t i = net.shared; i < net.entries; i++) own[i - net.shared] = phi[i][lane];
  }

 private:
  V* begin() {
    std::memcpy((void*)phi, theta, net.entries * sizeof(V));
    return phi;
  }

  // Call a function with the place and the number of each piece of the layers from "low" to "high".
  template <typename F> void pieces(int low, int high, F function) const {
    if (low == 0 && high == net.layers) return function(0, net.entries);
    for (int l = low; l < high; l++) {
      function(net.weight[l], int64_t(net.width[l]) * net.width[l + 1]);
      if (net.bias[l] >= 0) function(net.bias[l], int64_t(net.width[l + 1]));
    }
  }

  void step(Batch<T>& b, const V* point, V* next, int valid) {
    step(b, point, next, valid, recipe.low, recipe.high, recipe.lr, recipe.proximal);
  }

  // next = point after a step of the layers from "low" to "high"; h is valid up to layer "valid".
  void step(Batch<T>& b, const V* point, V* next, int valid, int low, int high, double lr,
            double proximal) {
    chain.forward(b, point, false, valid);
    bool whole = low == 0 && high == net.layers;
    if (next != point && !whole) std::memcpy((void*)next, point, net.entries * sizeof(V));
    V* p = product;
    if (recipe.rates) {
      T l2 = T(2 * net.l2);
      chain.template backward<ZERO>(b, point, p, 1, low, high);
      pieces(low, high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) next[i] = point[i] - rates[i] * (p[i] + l2 * point[i]);
      });
      return;
    }
    T shrink = T(lr * (2 * net.l2 + proximal)), pull = T(lr * proximal);
    if (shrink != 0)
      pieces(low, high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) p[i] = pull * theta[i] - shrink * point[i];
      });
    chain.template backward<OTHER>(b, point, next, T(-lr), low, high);
    if (shrink != 0)
      pieces(low, high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) next[i] += p[i];
      });
  }

  // v, the gradient behind the step at "point", becomes that before it; behind v stands that of rates.
  // "last": this was the last step, whose numbers are still there.
  void through_step(Batch<T>& b, const V* point, V* v, bool last) {
    V* p = product;
    if (!last) {
      chain.forward(b, point, false, recipe.low);
      chain.template backward<ZERO>(b, point, recipe.rates ? p : nullptr, 1, recipe.low, recipe.high);
    }
    T l2 = T(2 * net.l2);
    if (recipe.rates) {
      V *u = moved, *of_rates = v + net.entries;
      for (int64_t i = 0; i < net.entries; i++) {
        of_rates[i] -= (p[i] + l2 * point[i]) * v[i];
        u[i] = rates[i] * v[i];
      }
      chain.curvature(b, point, u, v, -1, recipe.low);
      for (int64_t i = 0; l2 != 0 && i < net.entries; i++) v[i] -= l2 * u[i];
      return;
    }
    T shrink = T(recipe.lr * 2 * net.l2);
    if (shrink != 0)
      pieces(recipe.low, recipe.high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) p[i] = shrink * v[i];
      });
    chain.curvature(b, point, v, v, T(-recipe.lr), recipe.low);
    if (shrink != 0)
      pieces(recipe.low, recipe.high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) v[i] -= p[i];
      });
  }
};

// Compute the updates of clients, as long as there are some; add up their limbs.
template <typename T>
void run(const Network& net, const Recipe& recipe, const T* theta, const Clients& clients, Result out,
         Memory<T>& memory, Turns& turns, std::mutex& adding) {
  constexpr int lanes = Lanes<T>::count;
  Block<T> block(net, recipe, theta, memory);
  int64_t P = block.sent(), own = net.entries - net.shared;
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
      if (out.own) block.keep(lane, (T*)out.own + client * own);
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
