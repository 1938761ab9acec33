// What clients send, and what they predict, for the clients of one vector (fused_steps.h).

#pragma once

#include "fused_steps.h"

extern "C" {
struct Stages {
  int32_t count;
  const int32_t* steps;  // at which predictions are wanted, rising
  void* const* to;       // of each client: its predictions, rows * outputs, at the first stage
  const int64_t* apart;  // of each client: entries from one stage to the next
  uint8_t* sound;        // count for each client: whether its predictions are finite
};
}

template <typename T> class Block : public Steps<T> {  // the computation of the clients of one vector
  typedef Steps<T> Base;
  using typename Base::V;
  using Base::center, Base::chain, Base::contexts, Base::gradient, Base::learned, Base::local, Base::moved,
      Base::net, Base::own, Base::P, Base::part, Base::phi, Base::product, Base::rates, Base::recipe,
      Base::theta;
  using Base::copied, Base::exact, Base::lanes, Base::step, Base::within;

 public:
  using Base::Base;

  // Compute the block's updates; the losses without and with adaptation go to before and after.
  const V* update(V& before, V& after) {
    switch (recipe.sends) {
      case DIFFERENCE: return difference(before, after);
      case META_DIFFERENCE:
      case ENVELOPE: return local_path(before, after);
      default: return learned.kind == CONTEXT ? by_context(before, after) : by_steps(before, after);
    }
  }

  // Compute the block's predictions at all stages.
  void predict(const Clients& from, int64_t first, int used, const Stages& stages) {
    Batch<T>&support = part[0], &query = part[1];
    V* point = copied(recipe.own_model ? own : theta, phi);
    bool context = learned.kind == CONTEXT;
    if (context) std::fill_n((T*)contexts, learned.columns * lanes, T(0));
    int low = context ? 0 : recipe.low;
    for (int stage = 0, done = 0; stage < stages.count; stage++) {
      for (; done < stages.steps[stage]; done++)
        if (context) {
          this->context_step(support, point, contexts, contexts);
          within(contexts, point);
        } else {
          step(support, point, point, done ? low : 0, done);
        }
      chain.propagate(query, point, stage ? low : 0);
      write(from, first, used, stages, stage);
    }
  }

 private:
  // theta - phi after steps on all rows. A client's own model takes its steps beside them.
  const V* difference(V& before, V& after) {
    Batch<T>& rows = part[0];
    V* point = copied(theta, phi);
    before = chain.forward(rows, point);
    before += chain.penalty(theta);
    int valid = net.layers;  // layers whose h is known
    int head_steps = recipe.own_model ? 0 : recipe.own_steps;
    for (int done = 0; done < head_steps; done++, valid = recipe.high)
      step(rows, point, point, valid, recipe.high, net.layers, recipe.own_lr, 0);
    for (int done = 0; done < recipe.steps; done++, valid = recipe.low) step(rows, point, point, valid, done);
    for (int64_t i = 0; i < net.shared; i++) gradient[i] = theta[i] - point[i];
    if (recipe.own_model) {
      point = own, own[P] = all<T>(1);
      for (int done = 0; done < recipe.own_steps; done++)
        step(rows, point, point, 0, 0, net.layers, recipe.own_lr, recipe.own_proximal);
    }
    after = chain.forward(rows, point, true, 0);
    after += chain.penalty(point);
    return gradient;
  }

  // theta - w after steps of w, each of which adapts anew from w.
  const V* local_path(V& before, V& after) {
    bool envelope = recipe.sends == ENVELOPE;
    Batch<T>&support = part[0], &evaluated = part[envelope ? 0 : 1];
    V* w = copied(theta, local);
    before = chain.forward(evaluated, theta);
    if (envelope) before += chain.penalty(theta);
    for (int done = 0; done < recipe.local_steps; done++) {
      near(support, w);
      if (envelope) {
        T rate = T(recipe.local_lr), pull = T(recipe.proximal);
        for (int64_t i = 0; i < P; i++) w[i] -= rate * (pull * (w[i] - phi[i]));
      } else {
        chain.forward(evaluated, phi, false);
        chain.template backward<ZERO>(evaluated, phi, product, 1, 0, net.layers);
        for (int64_t i = 0; i < P; i++) w[i] -= T(recipe.local_lr) * product[i];
      }
    }
    for (int64_t i = 0; i < P; i++) gradient[i] = theta[i] - w[i];
    near(support, w);
    after = chain.forward(evaluated, phi);
    if (envelope) after += chain.penalty(phi);
    return gradient;
  }

  // phi = what the steps make of w, near w.
  void near(Batch<T>& rows, const V* w) {
    center = w;
    copied(w, phi);
    for (int done = 0; done < recipe.steps; done++) step(rows, phi, phi, 0, done);
    center = theta;
  }

  // The gradient of the query loss after the steps, first-order or exact; or nothing.
  const V* by_steps(V& before, V& after) {
    Batch<T>&support = part[0], &query = part[1];
    V *point = copied(theta, phi), *v = gradient;
    bool sums = learned.kind == OF_STEPS;
    before = chain.forward(query, point);
    for (int done = 0; done < recipe.steps; done++, point += exact() ? P : 0)
      step(support, point, exact() ? point + P : point, done ? recipe.low : 0, done);
    if (sums) std::fill_n((T*)v, this->sent() * lanes, T(0)), after = V{};
    if (!sums) after = chain.forward(query, point, true, recipe.low);
    if (recipe.sends == NOTHING) {
      std::fill_n((T*)v, this->sent() * lanes, T(0));
      return v;
    }
    if (!sums) {
      chain.template backward<ZERO>(query, point, v, 1, 0, net.layers);
      if (rates) std::fill_n((T*)(v + P), learned.entries * lanes, T(0));
    }
    if (sums && !recipe.steps) after = add_query(query, point, v, learned.columns);
    for (int done = exact() ? recipe.steps : 0; done > 0; done--, point -= P) {
      if (sums) after += add_query(query, point, v, done);
      this->through_step(support, point - P, v, done - 1, done == recipe.steps);
    }
    return v;
  }

  // Add the weighted gradient of the query loss after a number of steps to v; return the weighted loss.
  V add_query(Batch<T>& query, const V* point, V* v, int done) {
    T weight = ((const T*)learned.weights)[done - 1];
    V loss = chain.forward(query, point);
    chain.template backward<ZERO>(query, point, moved, 1, 0, net.layers);
    for (int64_t i = 0; i < P; i++) v[i] += weight * moved[i];
    return weight * loss;
  }

  // The exact gradient of the query loss after steps of a context, which starts at 0.
  const V* by_context(V& before, V& after) {
    Batch<T>&support = part[0], &query = part[1];
    int n = learned.columns, O = net.width[learned.layer + 1];
    V *point = copied(theta, phi), *v = gradient, *c = contexts, *back = contexts + (recipe.steps + 1) * n;
    std::fill_n((T*)c, n * lanes, T(0));
    before = chain.forward(query, point);
    for (int done = 0; done < recipe.steps; done++, c += n) {
      this->context_step(support, point, c, c + n);
      within(c + n, point);
    }
    after = chain.forward(query, point);
    chain.template backward<ZERO>(query, point, v, 1, 0, net.layers);
    const V* of_bias = v + learned.bias;
    std::fill_n((T*)back, n * lanes, T(0));
    for (int o = 0; o < O; o++)
      for (int i = 0; i < n; i++) {
        v[P + o * n + i] = of_bias[o] * c[i];
        back[i] += rates[o * n + i] * of_bias[o];
      }
    for (int done = recipe.steps; done > 0; done--) {
      c -= n;
      this->through_context_step(support, within(c, point), c, back, v);
    }
    return v;
  }

  void write(const Clients& from, int64_t first, int used, const Stages& stages, int stage) const {
    const Batch<T>& query = part[1];
    int O = net.width[net.layers];
    T* to[lanes];
    int64_t shared = query.rows * O;
    for (int lane = 0; lane < lanes; lane++) {
      int64_t client = from.order[first + (lane < used ? lane : 0)];
      to[lane] = (T*)stages.to[client] + stage * stages.apart[client];
      shared = std::min(shared, from.rows[1][client] * O);
    }
    const V* z = query.h[net.layers].data();
    Int<T> finite = ~Int<T>{};
    for (int i = 0; i < query.rows * O; i++) finite &= z[i] - z[i] == 0;
    int64_t laid = used == lanes ? part_again<T>(z, to, shared) : 0;
    for (int lane = 0; lane < used; lane++) {
      int64_t rows = from.rows[1][from.order[first + lane]] * O;
      for (int64_t i = laid; i < rows; i++) to[lane][i] = z[i][lane];
      stages.sound[stage * from.count + from.order[first + lane]] = finite[lane] != 0;
    }
  }
};
