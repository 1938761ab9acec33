// Gradient steps of the clients of one vector, with a small fully connected network (fused.h).
//
//   step      phi <- phi - lr (grad L(phi) + proximal (phi - center)),  or with learned rates
//             phi <- phi - rates o grad L(phi);  layers outside [low, high) stay as they are
//   through   the exact gradient is v_0 of  v_k = grad L_query(phi_k),  v_t = v_{t+1} - H_t (rates o v_{t+1}),
//             H_t the Hessian of L_support at phi_t; the gradient in the rates is the sum over t of
//             - grad L_support(phi_t) o v_{t+1}. Only phi_0 .. phi_k are kept; activations are computed
//             again.
//   context   phi = (theta, its first bias + U c), and steps move c alone:  c <- c - lr U' grad_bias L(phi).
//             Backwards, with p for the gradient in c and b for that bias:  p_k = U' v_b, and
//             r = - lr H_t (U p_{t+1} at b);  v += r;  p_t = p_{t+1} + U' r_b;  that in U is
//             v_b c_k' + sum over t of  r_b c_t' - lr (grad_b L(phi_t)) p_{t+1}'.
//
// phi starts at theta and, behind it, at what the client keeps as its own (its layers from "high" on),
// which may take steps by itself before all others.

#pragma once

#include <cmath>
#include <memory>

#include "fused.h"

extern "C" {
enum Sends { FIRST_ORDER, EXACT, DIFFERENCE, NOTHING, META_DIFFERENCE, ENVELOPE };
enum Kind { NO_RATES, OF_ENTRIES, OF_STEPS, CONTEXT };
struct Learned {           // what is learned beside theta
  int32_t kind;            // nothing, a rate of each entry, a rate of each tensor and step, or U
  const void* values;
  int64_t entries;         // of the values
  int32_t columns;         // steps that have rates, or numbers of a context
  int32_t tensors;         // of theta
  const int64_t* first;    // where each of them begins, and their end
  const void* weights;     // of the query loss after each step, whose sum is what rates of steps are learned for
  int64_t bias;            // where the context's bias begins
  int32_t layer;           // which layer's it is
};
struct Recipe {
  int32_t sends;           // Sends
  int32_t steps;
  double lr, proximal;
  int32_t low, high;       // layers that move
  Learned learned;         // the exact gradient has theirs, too
  int32_t own_steps;       // of layers from "high" on, first; or of the client's own model
  double own_lr;
  int32_t own_model;       // whether a client keeps a whole model, and behind it whether it is one
  double own_proximal;     // its pull to theta
  int32_t local_steps;     // of a point that adapts anew at each
  double local_lr;
};
}

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
  Room<Vec<T>> theta, rates, phi, gradient, product, moved, own, local, context;
  Room<Doubles> sums;
};

template <typename T> class Steps {  // the points of the clients of one vector
 protected:
  typedef Vec<T> V;
  static constexpr int lanes = Lanes<T>::count;
  const Network& net;
  const Recipe& recipe;
  const Learned& learned;
  Chain<T> chain;
  Batch<T>* part;  // support (or all rows), query
  V *theta, *rates = nullptr, *phi, *gradient, *product, *moved = nullptr;
  V *own = nullptr, *local = nullptr, *contexts = nullptr;
  const V* center;  // where the pull goes to
  int64_t P;        // entries of a point

 public:
  Steps(const Network& net, const Recipe& recipe, const T* start, Memory<T>& memory)
      : net(net), recipe(recipe), learned(recipe.learned), chain(net, recipe.sends == EXACT),
        part(memory.part), P(net.entries) {
    theta = memory.theta.of(P);
    for (int64_t i = 0; i < net.shared; i++) theta[i] = all<T>(start[i]);
    center = theta;
    if (learned.kind) {
      rates = memory.rates.of(learned.entries);
      for (int64_t i = 0; i < learned.entries; i++) rates[i] = all<T>(((const T*)learned.values)[i]);
    }
    moved = memory.moved.of(P);
    phi = memory.phi.of((exact() && learned.kind != CONTEXT ? recipe.steps + 1 : 1) * P);
    gradient = memory.gradient.of(sent());
    product = memory.product.of(P);
    if (recipe.own_model) own = memory.own.of(P + 1);
    if (recipe.sends == META_DIFFERENCE || recipe.sends == ENVELOPE) local = memory.local.of(P);
    if (learned.kind == CONTEXT) contexts = memory.context.of((recipe.steps + 2) * learned.columns);
  }

  bool exact() const { return recipe.sends == EXACT; }
  int64_t sent() const { return net.shared + learned.entries; }

  void load(const Clients& from, int64_t first, int used) {
    bool both = recipe.sends == DIFFERENCE || recipe.sends == ENVELOPE;
    chain.load(part[0], from, 0, both ? 2 : 1, first, used);
    if (!both) chain.load(part[1], from, 1, 2, first, used);
    V* kept = recipe.own_model ? own : theta + net.shared;
    for (int lane = 0; from.kept && lane < lanes; lane++) {
      const T* values = (const T*)from.own + from.order[first + (lane < used ? lane : 0)] * from.kept;
      for (int64_t i = 0; i < from.kept; i++) kept[i][lane] = values[i];
    }
    if (!recipe.own_model) return;
    for (int64_t i = 0; i < P; i++) own[i] = own[P] > T(0.5) ? own[i] : theta[i];
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

  // Write what a lane's client keeps, after its steps.
  void keep(int lane, const Clients& from, T* to) const {
    const V* kept = recipe.own_model ? own : phi + net.shared;
    for (int64_t i = 0; i < from.kept; i++) to[i] = kept[i][lane];
  }

 protected:
  V* copied(const V* from, V* to) const {
    std::memcpy((void*)to, from, P * sizeof(V));
    return to;
  }

  // Call a function with the place and the number of each piece of the layers from "low" to "high".
  template <typename F> void pieces(int low, int high, F function) const {
    if (low == 0 && high == net.layers) return function(0, P);
    for (int l = low; l < high; l++) {
      function(net.weight[l], int64_t(net.width[l]) * net.width[l + 1]);
      if (net.bias[l] >= 0) function(net.bias[l], int64_t(net.width[l + 1]));
    }
  }

  // Call a function with the tensor, its place and its end, and the place of its rate at a step.
  template <typename F> void tensors(int step, F function) const {
    int column = std::min(step, learned.columns - 1);
    for (int i = 0; i < learned.tensors; i++)
      function(learned.first[i], learned.first[i + 1], i * learned.columns + column);
  }

  // Step number "done" from a point to the next; h is valid up to layer "valid".
  void step(Batch<T>& b, const V* point, V* next, int valid, int done) {
    if (!learned.kind)
      return step(b, point, next, valid, recipe.low, recipe.high, recipe.lr, recipe.proximal);
    slope(b, point, next, valid, recipe.low, recipe.high);
    V* p = product;
    T l2 = T(2 * net.l2);
    if (learned.kind == OF_ENTRIES)
      return pieces(recipe.low, recipe.high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) next[i] = point[i] - rates[i] * (p[i] + l2 * point[i]);
      });
    tensors(done, [&](int64_t at, int64_t end, int64_t rate) {
      for (int64_t i = at; i < end; i++) next[i] = point[i] - rates[rate] * (p[i] + l2 * point[i]);
    });
  }

  // next = point after a step of the layers from "low" to "high"; h is valid up to layer "valid".
  void step(Batch<T>& b, const V* point, V* next, int valid, int low, int high, double lr,
            double proximal) {
    chain.forward(b, point, false, valid);
    stay(point, next, low, high);
    V* p = product;
    T shrink = T(lr * (2 * net.l2 + proximal)), pull = T(lr * proximal);
    if (shrink != 0)
      pieces(low, high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) p[i] = pull * center[i] - shrink * point[i];
      });
    chain.template backward<OTHER>(b, point, next, T(-lr), low, high);
    if (shrink != 0)
      pieces(low, high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) next[i] += p[i];
      });
  }

  // v, the gradient behind step number "done" from "point", becomes that before it; behind v stands that of
  // the rates. "last": this was the last step, whose numbers are still there.
  void through_step(Batch<T>& b, const V* point, V* v, int done, bool last) {
    V* p = product;
    if (!last) {
      chain.forward(b, point, false, recipe.low);
      chain.template backward<ZERO>(b, point, rates ? p : nullptr, 1, recipe.low, recipe.high);
    }
    T l2 = T(2 * net.l2);
    if (rates) {
      V *u = moved, *of_rates = v + P;
      if (learned.kind == OF_ENTRIES)
        for (int64_t i = 0; i < P; i++) {
          of_rates[i] -= (p[i] + l2 * point[i]) * v[i];
          u[i] = rates[i] * v[i];
        }
      else
        tensors(done, [&](int64_t at, int64_t end, int64_t rate) {
          V sum{};
          for (int64_t i = at; i < end; i++) {
            sum += (p[i] + l2 * point[i]) * v[i];
            u[i] = rates[rate] * v[i];
          }
          of_rates[rate] -= sum;
        });
      chain.curvature(b, point, u, v, -1, recipe.low);
      for (int64_t i = 0; l2 != 0 && i < P; i++) v[i] -= l2 * u[i];
      return;
    }
    const V* u = v;
    if (recipe.high < net.layers) {  // of what does not move, there is no direction
      u = moved;
      std::memset((void*)moved, 0, P * sizeof(V));
      pieces(recipe.low, recipe.high, [&](int64_t at, int64_t count) {
        std::memcpy((void*)(moved + at), v + at, count * sizeof(V));
      });
    }
    T shrink = T(recipe.lr * 2 * net.l2);
    if (shrink != 0)
      pieces(recipe.low, recipe.high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) p[i] = shrink * v[i];
      });
    chain.curvature(b, point, u, v, T(-recipe.lr), recipe.low);
    if (shrink != 0)
      pieces(recipe.low, recipe.high, [&](int64_t at, int64_t count) {
        for (int64_t i = at; i < at + count; i++) v[i] -= p[i];
      });
  }

  // The context c's point: theta, and U c in its bias.
  V* within(const V* c, V* point) const {
    int n = learned.columns, O = net.width[learned.layer + 1];
    for (int o = 0; o < O; o++) {
      V sum = theta[learned.bias + o];
      for (int i = 0; i < n; i++) sum += rates[o * n + i] * c[i];
      point[learned.bias + o] = sum;
    }
    return point;
  }

  // next = context c after a step; "point" is that of c. Leaves the slope in the bias in product.
  void context_step(Batch<T>& b, const V* point, const V* c, V* next) {
    slope(b, point, nullptr, 0, learned.layer, learned.layer + 1);
    V* p = product + learned.bias;
    int n = learned.columns, O = net.width[learned.layer + 1];
    for (int o = 0; o < O; o++) p[o] += T(2 * net.l2) * point[learned.bias + o];
    for (int i = 0; i < n; i++) {
      V sum{};
      for (int o = 0; o < O; o++) sum += rates[o * n + i] * p[o];
      next[i] = c[i] - T(recipe.lr) * sum;
    }
  }

  // v and behind it the gradient in U go back through the step from context c, whose point is given;
  // "back" is the gradient in the context behind the step, and becomes that before.
  void through_context_step(Batch<T>& b, const V* point, const V* c, V* back, V* v) {
    slope(b, point, nullptr, 0, 0, net.layers);
    int n = learned.columns, O = net.width[learned.layer + 1];
    V *p = product + learned.bias, *of_weights = v + P;
    T l2 = T(2 * net.l2), lr = T(recipe.lr);
    for (int o = 0; o < O; o++)
      for (int i = 0; i < n; i++) of_weights[o * n + i] -= lr * (p[o] + l2 * point[learned.bias + o]) * back[i];
    V *u = moved, *r = product;
    std::memset((void*)u, 0, P * sizeof(V));
    for (int o = 0; o < O; o++)
      for (int i = 0; i < n; i++) u[learned.bias + o] += rates[o * n + i] * back[i];
    std::memset((void*)r, 0, P * sizeof(V));
    chain.curvature(b, point, u, r, -lr, 0);
    for (int64_t i = 0; i < P; i++) v[i] += r[i] -= lr * l2 * u[i];
    for (int o = 0; o < O; o++)
      for (int i = 0; i < n; i++) {
        of_weights[o * n + i] += p[o] * c[i];  // p is r now
        back[i] += rates[o * n + i] * p[o];
      }
  }

 private:
  void stay(const V* point, V* next, int low, int high) const {
    if (next != point && !(low == 0 && high == net.layers)) copied(point, next);
  }

  // product = the gradient at a point, without that of the penalty; layers that do not move go to next.
  void slope(Batch<T>& b, const V* point, V* next, int valid, int low, int high) {
    chain.forward(b, point, false, valid);
    if (next) stay(point, next, low, high);
    chain.template backward<ZERO>(b, point, product, 1, low, high);
  }
};
