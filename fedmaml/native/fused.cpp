// Updates of many clients with a small fully connected network: clients are the lanes of a vector.
//
// Every number is a vector of one value per client, as wide as the processor's registers (with AVX-512
// 16 clients in float, 8 in double), so that ordinary scalar code computes a whole block of clients,
// and all k steps of a block run while its weights lie in cache. A lane never sees another lane: a
// client's update does not depend, not even in its last bit, on who shares its block. Clients of unequal
// size share a block, too: a row past a client's own has coefficient 0 and adds an exact zero.
//
// Notation: z_l = h_{l-1} W_l' + b_l, h_l = a_l(z_l), h_0 = x, z_L the prediction; loss
// L(phi) = mean over rows of loss(z_L, y) + l2 |phi|^2.
//
//   step      phi <- phi - lr (grad L(phi) + proximal (phi - theta))
//   reverse   e_L = dloss/dz_L / rows;  dW_l = e_l' h_{l-1};  db_l = sum over rows of e_l;
//             e_{l-1} = a'(z_{l-1}) o (e_l W_l)
//   exact     MAML's gradient is v_0 of  v_k = grad L_query(phi_k),  v_t = v_{t+1} - lr H_t v_{t+1},
//             H_t the Hessian of L_support at phi_t. A Hessian-vector product is the derivative of the
//             reverse pass in direction v (Pearlmutter 1994), with R{.} for that derivative:
//               R{z_l}   = h_{l-1} V_l' + c_l + R{h_{l-1}} W_l'      v = (V_l, c_l) for each layer
//               R{h_l}   = a'(z_l) o R{z_l}
//               R{e_L}   = (Hessian of the row's loss in z) R{z_L} / rows
//               R{dW_l}  = R{e_l}' h_{l-1} + e_l' R{h_{l-1}}
//               R{e_l-1} = a'(z_{l-1}) o (R{e_l} W_l + e_l V_l) + a''/a' o R{z_{l-1}} o e_{l-1}
//             relu: a' = [h > 0], a'' = 0;  tanh: a' = 1 - h^2, a''/a' = -2 h.
//             Only phi_0 .. phi_k are kept; activations are computed again.
//
// The sum over clients is exact (lane_sums.h).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "lane_sums.h"
#include "tiles.h"

extern "C" {
struct Network {
  int32_t layers;                // linear layers
  const int32_t* width;          // layers + 1: inputs, ..., outputs
  const int32_t* activation;     // after each layer: 0 none, 1 relu, 2 tanh
  const int64_t *weight, *bias;  // where a layer's weight and bias begin in theta; bias -1: none
  int64_t entries;               // of theta
  int32_t loss;                  // 0: scale * sum of squares, 1: cross-entropy, 2: binary
  double scale, l2;
};
struct Recipe {
  int32_t sends;  // 0: first-order gradient, 1: exact gradient, 2: theta - phi on all rows
  int32_t steps;
  double lr, proximal;
};
struct Clients {
  int64_t count;
  const int64_t* order;                // clients of similar size follow one another
  const int64_t *rows[2];              // support, query
  const void *const *x[2], *const *y[2];  // of each client: rows * inputs; rows * outputs, or classes
  const double* weight;
};
struct Result {
  double* limbs;       // 3 * entries, added to
  void* stack;         // count * entries, or null
  double *before, *after;  // losses
  uint8_t* sound;      // whether an update is finite and small enough to be added
  double limit;        // for |weight * update|
};
}

namespace {

template <typename T> class Block {  // the computation of the clients of one vector
  typedef Vec<T> V;
  struct Batch {  // rows of a block: inputs, targets, and the network's numbers
    int rows = 0;
    std::vector<V> target, coefficient, probability;
    std::vector<std::vector<V>> h, e, rh, rz, re;
  };
  const Network& net;
  const Recipe& recipe;
  const V* theta;
  int targets;
  Batch part[2];
  std::unique_ptr<V[]> phi, gradient, product;

 public:
  Block(const Network& net, const Recipe& recipe, const V* theta)
      : net(net), recipe(recipe), theta(theta), targets(net.loss == 0 ? net.width[net.layers] : 1) {
    phi.reset(new V[(recipe.sends == 1 ? recipe.steps + 1 : 1) * net.entries]);
    gradient.reset(new V[net.entries]);
    product.reset(new V[net.entries]);
  }

  // Lay the clients' rows side by side. "both": support and query as one batch.
  void load(const Clients& all_clients, int64_t first, int lanes) {
    bool both = recipe.sends == 2;
    for (int which = 0; which < (both ? 1 : 2); which++) {
      Batch& b = part[which];
      int64_t count[Lanes<T>::count] = {}, most = 0;
      for (int lane = 0; lane < lanes; lane++) {
        int64_t client = all_clients.order[first + lane];
        count[lane] = all_clients.rows[which][client] + (both ? all_clients.rows[1][client] : 0);
        most = count[lane] > most ? count[lane] : most;
      }
      resize(b, int(most));
      int64_t done[Lanes<T>::count] = {};
      for (int source = which; source < (both ? 2 : which + 1); source++)
        copy(b, all_clients, source, &all_clients.order[first], lanes, done);
      for (int lane = 0; lane < lanes; lane++)
        for (int64_t row = 0; row < done[lane]; row++)  // NaN where the target is
          b.coefficient[row][lane] = T(1) / T(done[lane]) + 0 * b.target[row * targets][lane];
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
  V* update(V& before, V& after) {
    int64_t P = net.entries;
    Batch &local = part[0], &evaluated = part[recipe.sends == 2 ? 0 : 1];
    V* point = phi.get();
    std::memcpy((void*)point, theta, P * sizeof(V));
    before = forward(evaluated, point);
    for (int step = 0; step < recipe.steps; step++) {
      forward(local, point, false);
      V* next = recipe.sends == 1 ? point + P : point;
      T shrink = T(recipe.lr * (2 * net.l2 + recipe.proximal)), pull = T(recipe.lr * recipe.proximal);
      for (int64_t i = 0; shrink != 0 && i < P; i++)
        product[i] = pull * theta[i] - shrink * point[i];
      backward<OTHER>(local, point, next, T(-recipe.lr));
      for (int64_t i = 0; shrink != 0 && i < P; i++) next[i] += product[i];
      point = next;
    }
    after = forward(evaluated, point);
    V* v = gradient.get();
    if (recipe.sends == 2) {
      before += penalty(theta), after += penalty(point);
      for (int64_t i = 0; i < P; i++) v[i] = theta[i] - point[i];
      return v;
    }
    backward<ZERO>(evaluated, point, v);
    if (recipe.sends == 1)
      for (int step = 0; step < recipe.steps; step++) {
        point -= P;
        forward(local, point, false);
        backward<ZERO>(local, point, nullptr);
        T shrink = T(recipe.lr * 2 * net.l2);
        for (int64_t i = 0; shrink != 0 && i < P; i++) product[i] = shrink * v[i];
        curvature(local, point, v, T(-recipe.lr));
        for (int64_t i = 0; shrink != 0 && i < P; i++) v[i] -= product[i];
      }
    return v;
  }

 private:
  void resize(Batch& b, int rows) {
    b.rows = rows;
    for (auto* each : {&b.h, &b.e, &b.rh, &b.rz, &b.re}) {
      each->resize(net.layers + 1);
      bool used = recipe.sends == 1 || each == &b.h || each == &b.e;
      for (int l = 0; used && l <= net.layers; l++) (*each)[l].resize(size_t(rows) * net.width[l]);
    }
    b.probability.resize(size_t(rows) * net.width[net.layers]);
    std::fill_n((T*)b.h[0].data(), size_t(rows) * net.width[0] * Lanes<T>::count, T(0));
    b.target.assign(size_t(rows) * targets, V{});
    b.coefficient.assign(rows, V{});
  }

  // Lay the clients' rows of a source below those that are done.
  void copy(Batch& b, const Clients& from, int source, const int64_t* client, int lanes, int64_t* done) {
    constexpr int all_lanes = Lanes<T>::count;
    int I = net.width[0];
    int64_t shared = from.rows[source][client[0]];  // rows that all lanes have, at the same place
    const T* x[all_lanes];
    for (int lane = 0; lane < all_lanes; lane++) {
      int64_t own = client[lane < lanes ? lane : 0];  // what an unused lane computes, nobody reads
      x[lane] = (const T*)from.x[source][own];
      shared = lane < lanes && done[lane] != done[0] ? 0 : std::min(shared, from.rows[source][own]);
    }
    V* top = b.h[0].data() + done[0] * I;
    int64_t laid = transpose<T>(x, top, shared * I);
    for (int lane = 0; lane < lanes; lane++) {
      int64_t rows = from.rows[source][client[lane]];
      T* inputs = (T*)(b.h[0].data() + done[lane] * I) + lane;
      for (int64_t i = laid; i < rows * I; i++) inputs[i * all_lanes] = x[lane][i];
      T* outputs = (T*)(b.target.data() + done[lane] * targets) + lane;
      const void* y = from.y[source][client[lane]];
      for (int64_t i = 0; i < rows * targets; i++)
        outputs[i * all_lanes] = net.loss == 1 ? known(((const int64_t*)y)[i]) : ((const T*)y)[i];
      done[lane] += rows;
    }
  }

  // A class; NaN for what is none, which makes its client's update NaN.
  T known(int64_t target) const {
    bool is_class = target >= 0 && target < net.width[net.layers];
    return is_class ? T(target) : std::numeric_limits<T>::quiet_NaN();
  }

  V penalty(const V* w) {
    V sum{};
    for (int64_t i = 0; i < net.entries; i++) sum += w[i] * w[i];
    return sum * T(net.l2);
  }

  // Fill h and e_L; return the mean loss, or nothing of use if its value is not wanted.
  V forward(Batch& b, const V* w, bool value_wanted = true) {
    for (int l = 0; l < net.layers; l++) {
      int O = net.width[l + 1];
      V* z = b.h[l + 1].data();
      if (net.activation[l] == 1)
        add_product<RELU>(b, l, b.h[l].data(), w, w, z);
      else
        add_product<AS_IS>(b, l, b.h[l].data(), w, w, z);
      if (net.activation[l] == 2)
        for (int i = 0; i < b.rows * O; i++) z[i] = vtanh<T>(z[i]);
    }
    return loss(b, value_wanted);
  }

  V loss(Batch& b, bool value_wanted) {
    int O = net.width[net.layers];
    V total{};
    T scale = T(net.scale);
    for (int row = 0; row < b.rows; row++) {
      const V *z = &b.h[net.layers][row * O], *y = &b.target[row * targets];
      V *e = &b.e[net.layers][row * O], *p = &b.probability[row * O];
      V c = b.coefficient[row], value{};
      if (net.loss == 0) {
        for (int o = 0; o < O; o++) {
          V d = z[o] - y[o];
          value += d * d * scale;
          e[o] = d * (2 * scale) * c;
        }
      } else if (net.loss == 1) {
        V most = z[0], sum{}, own{};
        for (int o = 1; o < O; o++) most = larger(most, z[o]);
        for (int o = 0; o < O; o++) sum += p[o] = vexp<T>(z[o] - most);
        V inverse = T(1) / sum;
        for (int o = 0; o < O; o++) {
          Int<T> hit = y[0] == all<T>(T(o));
          p[o] *= inverse;
          own = hit ? z[o] : own;
          e[o] = (p[o] - (hit ? all<T>(1) : V{})) * c;
        }
        if (value_wanted) value = vlog<T>(sum) + most - own;
      } else {
        V q = vexp<T>(-absolute(z[0]));
        p[0] = (z[0] < 0 ? q : all<T>(1)) / (q + 1);
        if (value_wanted) value = (z[0] < 0 ? V{} : z[0]) - z[0] * y[0] + vlog<T>(q + 1);
        e[0] = (p[0] - y[0]) * c;
      }
      total += value * c;
    }
    return total;
  }

  // out = a'(z_{l-1}) o (start + e W_l)
  template <Start from> void through(Batch& b, int l, V* out, const V* e, const V* w) {
    int I = net.width[l], O = net.width[l + 1];
    Matrix<V> errors{e, O, 1}, weight{w + net.weight[l], 1, I};
    if (net.activation[l - 1] == 1)
      return multiply<from, GATED, T>(out, errors, weight, b.rows, I, O, b.h[l].data());
    multiply<from, AS_IS, T>(out, errors, weight, b.rows, I, O);
    through_activation(b, l, out);
  }

  void through_activation(Batch& b, int l, V* e) {  // e <- a'(z_{l-1}) o e
    const V* h = b.h[l].data();
    int n = b.rows * net.width[l];
    if (net.activation[l - 1] == 1)
      for (int i = 0; i < n; i++) e[i] = h[i] > 0 ? e[i] : V{};
    if (net.activation[l - 1] == 2)
      for (int i = 0; i < n; i++) e[i] *= 1 - h[i] * h[i];
  }

  // z = x W_l' + (bias of c), or relu of it
  template <Then then> void add_product(Batch& b, int l, const V* x, const V* w, const V* c, V* z) {
    int I = net.width[l], O = net.width[l + 1];
    Matrix<V> inputs{x, I, 1}, weight{w + net.weight[l], I, 1};
    if (net.bias[l] < 0)
      multiply<ZERO, then, T>(z, inputs, weight, b.rows, O, I);
    else
      multiply<COLUMNS, then, T>(z, inputs, weight, b.rows, O, I, c + net.bias[l]);
  }

  // From e_L: all e, and out = w + factor * gradient ("OTHER") or the gradient ("ZERO"); out may be w,
  // or null if only the e are wanted.
  template <Start from> void backward(Batch& b, const V* w, V* out, T factor = 1) {
    for (int l = net.layers - 1; l >= 0; l--) {
      int I = net.width[l], O = net.width[l + 1];
      const V* e = b.e[l + 1].data();
      if (l > 0) {
        through<ZERO>(b, l, b.e[l].data(), e, w);
      }
      if (out) gradient_of<from>(b, l, e, b.h[l].data(), w, out, factor);
    }
  }

  // Of layer l, out = from + factor * (e' h, and the sum of e over rows for the bias).
  template <Start from>
  void gradient_of(Batch& b, int l, const V* e, const V* h, const V* start, V* out, T factor) {
    int I = net.width[l], O = net.width[l + 1];
    int64_t at = net.weight[l];
    multiply<from, AS_IS, T>(out + at, {e, 1, O}, {h, 1, I}, O, I, b.rows, start + at, factor);
    if ((at = net.bias[l]) < 0) return;
    const V one = all<T>(1);
    multiply<from, AS_IS, T>(out + at, {e, 1, O}, {&one, 0, 0}, O, 1, b.rows, start + at, factor);
  }

  // v <- v + factor * H(w) v, after both passes at w.
  void curvature(Batch& b, const V* w, V* v, T factor) {
    for (int l = 0; l < net.layers; l++) {
      int I = net.width[l], O = net.width[l + 1];
      V* rz = b.rz[l + 1].data();
      add_product<AS_IS>(b, l, b.h[l].data(), v, v, rz);
      if (l) multiply<OLD, AS_IS, T>(rz, {b.rh[l].data(), I, 1}, {w + net.weight[l], I, 1}, b.rows, O, I);
      if (l + 1 == net.layers) break;
      std::memcpy((void*)b.rh[l + 1].data(), rz, size_t(b.rows) * O * sizeof(V));
      through_activation(b, l + 1, b.rh[l + 1].data());
    }
    curvature_of_loss(b);
    for (int l = net.layers - 1; l >= 0; l--) {
      int I = net.width[l], O = net.width[l + 1];
      const V *e = b.e[l + 1].data(), *re = b.re[l + 1].data();
      V* next = b.re[l].data();
      if (l) {
        multiply<ZERO, AS_IS, T>(next, {re, O, 1}, {w + net.weight[l], 1, I}, b.rows, I, O);
        through<OLD>(b, l, next, e, v);
        if (net.activation[l - 1] == 2)
          for (int i = 0; i < b.rows * I; i++) next[i] -= 2 * b.h[l][i] * b.rz[l][i] * b.e[l][i];
      }
      gradient_of<OTHER>(b, l, re, b.h[l].data(), v, v, factor);
      int64_t at = net.weight[l];
      if (l)
        multiply<OTHER, AS_IS, T>(v + at, {e, 1, O}, {b.rh[l].data(), 1, I}, O, I, b.rows, v + at, factor);
    }
  }

  void curvature_of_loss(Batch& b) {  // R{e_L} from R{z_L}
    int O = net.width[net.layers];
    for (int row = 0; row < b.rows; row++) {
      const V *rz = &b.rz[net.layers][row * O], *p = &b.probability[row * O];
      V *re = &b.re[net.layers][row * O], c = b.coefficient[row], mean{};
      if (net.loss == 1)
        for (int o = 0; o < O; o++) mean += p[o] * rz[o];
      for (int o = 0; o < O; o++) {
        if (net.loss == 0) re[o] = T(2 * net.scale) * c * rz[o];
        if (net.loss == 1) re[o] = p[o] * (rz[o] - mean) * c;
        if (net.loss == 2) re[o] = p[o] * (1 - p[o]) * rz[o] * c;
      }
    }
  }
};

template <typename T>
void run(const Network& net, const Recipe& recipe, const T* theta, const Clients& clients, Result out) {
  constexpr int lanes = Lanes<T>::count;
  int64_t P = net.entries;
  std::vector<Vec<T>> start(P);
  for (int64_t i = 0; i < P; i++) start[i] = all<T>(theta[i]);
  std::vector<Doubles> sums(3 * P);
  Block<T> block(net, recipe, start.data());
  for (int64_t first = 0; first < clients.count; first += lanes) {
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
      double own = clients.weight[client];
      bool sound = number[lane] && double(largest[lane]) * own < out.limit;
      out.sound[client] = sound;
      out.before[client] = before[lane];
      out.after[client] = after[lane];
      weight[lane] = sound ? own : 0.0;
      if (sound) most = std::max(most, double(largest[lane]) * own);
      if (out.stack)
        for (int64_t i = 0; i < P; i++) ((T*)out.stack)[client * P + i] = v[i][lane];
    }
    if (out.stack) continue;
    if (most < SPACING[0] / 2)
      add_exactly<T, 1>(v, weight, P, sums.data());
    else
      add_exactly<T, 0>(v, weight, P, sums.data());
  }
  for (int64_t i = 0; i < 3 * P; i++)
    for (int lane = 0; lane < DOUBLES; lane++) out.limbs[i] += sums[i][lane];
}

}  // namespace

extern "C" void fused_float32(const Network* net, const Recipe* recipe, const float* theta,
                              const Clients* clients, const Result* out) {
  run<float>(*net, *recipe, theta, *clients, *out);
}
extern "C" void fused_float64(const Network* net, const Recipe* recipe, const double* theta,
                              const Clients* clients, const Result* out) {
  run<double>(*net, *recipe, theta, *clients, *out);
}
