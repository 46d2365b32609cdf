/* What is computed for one user: buckets, overrides, terms, and the answer's bytes (docs/decisions/0091).

   numpy_kernel.py has the same class for machines without a compiler; tests hold the two and SQL equal. Only the
   stable ABI of Python 3.11 is used. Every call holds the GIL, so that all can use one row. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { UNCOVERED = 1, EXCLUDED = 3, INCLUDED = 4 }; /* domain/decisions.py; COVERED is UNCOVERED + 1 */

/* replica/states.py */
#define COUNT_MASK ((UINT64_C(1) << 20) - 1)
#define HAS_TERM (UINT32_C(1) << 30)
#define IS_EXCLUSION (UINT32_C(1) << 31)
#define SEGMENT_BITS (HAS_TERM - 1)

#define BLOCK 128
#define KEPT 7

/* Pointers into the bytes objects in `kept`, and into memory of its own. A rank is a segment's place by slug. */
typedef struct {
    PyObject_HEAD
    PyObject *kept[KEPT];
    Py_ssize_t segments, rollouts, separator;
    const uint8_t *undecided;                          /* by rank: what holds without a rollout or override */
    const uint32_t *ids, *rank_of_id;                  /* by id */
    const uint32_t *a, *b, *c, *rotated, *last, *rank_of_rollout;
    const char *pieces;                                /* by rank, each with the separator before it */
    const uint32_t *ends;
    uint8_t *row;                                      /* by rank: the decisions, and up to 7 zeros */
    uint32_t *found;                                   /* the ranks of the segments that the user is in */
} Kernel;

static uint32_t word_at(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t long_word_at(const uint8_t *p) {
    return (uint64_t)word_at(p) << 32 | word_at(p + 4);
}

static uint32_t rotated_by(uint32_t word, int bits) {
    return word << bits | word >> (32 - bits);
}

/* domain/bucketing.py: `fold`, and `finish` for each rollout. */
static void cover(Kernel *self, int64_t user_id) {
    uint32_t high = (uint32_t)((uint64_t)user_id >> 32);
    uint32_t folded = (uint32_t)user_id ^ (user_id >= 0 ? high : ~high);
    for (Py_ssize_t begin = 0; begin < self->rollouts; begin += BLOCK) {
        uint8_t covered[BLOCK];
        Py_ssize_t count = self->rollouts - begin < BLOCK ? self->rollouts - begin : BLOCK;
        const uint32_t *pa = self->a + begin, *pb = self->b + begin, *pc = self->c + begin;
        const uint32_t *rotated = self->rotated + begin, *last = self->last + begin;
        for (Py_ssize_t i = 0; i < count; i++) {
            uint32_t a = pa[i], b = pb[i], c = pc[i];
            a = ((a + folded) ^ c) - rotated[i];
            b = (b ^ a) - rotated_by(a, 25);
            c = (c ^ b) - rotated_by(b, 16);
            a = (a ^ c) - rotated_by(c, 4);
            b = (b ^ a) - rotated_by(a, 14);
            covered[i] = ((c ^ b) - rotated_by(b, 24)) <= last[i];
        }
        for (Py_ssize_t i = 0; i < count; i++)
            self->row[self->rank_of_rollout[begin + i]] = UNCOVERED + covered[i];
    }
}

/* The rank of a living segment, or -1. */
static Py_ssize_t rank_of(const Kernel *self, uint32_t id) {
    const uint32_t *low = self->ids;
    for (Py_ssize_t left = self->segments; left > 1;) {
        Py_ssize_t half = left / 2;
        low = low[half] <= id ? low + half : low;
        left -= half;
    }
    return self->segments > 0 && *low == id ? (Py_ssize_t)self->rank_of_id[low - self->ids] : -1;
}

/* Writes the overrides that hold into the row; 0 if the state is not what its first word says. */
static int override(Kernel *self, const uint8_t *state, Py_ssize_t length, int64_t now) {
    const uint8_t *end = state + length;
    if (length < 8)
        return 0;
    Py_ssize_t count = (Py_ssize_t)(long_word_at(state) & COUNT_MASK);
    if ((length - 8) / 4 < count)
        return 0;
    const uint8_t *word_place = state + 8, *term = word_place + 4 * count;
    for (; count > 0; count--, word_place += 4) {
        uint32_t word = word_at(word_place);
        if (word & HAS_TERM) {
            if (end - term < 8)
                return 0;
            int64_t until = (int64_t)long_word_at(term);
            term += 8;
            if (until <= now)
                continue;
        }
        Py_ssize_t rank = rank_of(self, word & SEGMENT_BITS);
        if (rank >= 0)
            self->row[rank] = word & IS_EXCLUSION ? EXCLUDED : INCLUDED;
    }
    return term == end;
}

/* Fills the row for the first arguments: user id, state or None, now. 0 after an error. */
static int decide(Kernel *self, PyObject *const *arguments, Py_ssize_t given, Py_ssize_t wanted) {
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "takes %zd arguments, not %zd", wanted, given);
        return 0;
    }
    long long user_id = PyLong_AsLongLong(arguments[0]), now = PyLong_AsLongLong(arguments[2]);
    char *bytes = NULL;
    Py_ssize_t length = 0;
    if (PyErr_Occurred() ||
        (arguments[1] != Py_None && PyBytes_AsStringAndSize(arguments[1], &bytes, &length) < 0))
        return 0;
    memcpy(self->row, self->undecided, self->segments);
    cover(self, user_id);
    if (bytes != NULL && !override(self, (const uint8_t *)bytes, length, now)) {
        PyErr_Format(PyExc_ValueError, "the state of user %lld is torn", user_id);
        return 0;
    }
    return 1;
}

static Py_ssize_t begin_of(const Kernel *self, Py_ssize_t rank) {
    return rank ? self->ends[rank - 1] : 0;
}

/* The pieces of the segments that a user is in, between two other ones: the arguments after those of decide(). */
static PyObject *join(Kernel *self, PyObject *const *arguments, Py_ssize_t given) {
    char *before, *after;
    Py_ssize_t n_before, n_after, count = 0, size = 0;
    if (!decide(self, arguments, given, 5) || PyBytes_AsStringAndSize(arguments[3], &before, &n_before) < 0 ||
        PyBytes_AsStringAndSize(arguments[4], &after, &n_after) < 0)
        return NULL;
    for (Py_ssize_t begin = 0; begin < self->segments; begin += 8) {
        uint64_t eight;
        memcpy(&eight, self->row + begin, 8);
        /* In each byte: COVERED is 2 and INCLUDED 4; 1 and 3 are none. */
        eight = (eight >> 2 | (eight >> 1 & ~eight)) & UINT64_C(0x0101010101010101);
        if (eight == 0)
            continue;
        uint8_t is_in[8];
        memcpy(is_in, &eight, 8);
        for (int i = 0; i < 8; i++)
            if (is_in[i]) {
                self->found[count++] = (uint32_t)(begin + i);
                size += self->ends[begin + i] - begin_of(self, begin + i);
            }
    }
    Py_ssize_t skipped = count ? self->separator : 0;
    PyObject *result = PyBytes_FromStringAndSize(NULL, n_before + size - skipped + n_after);
    if (result == NULL)
        return NULL;
    char *place = PyBytes_AsString(result);
    memcpy(place, before, n_before);
    place += n_before;
    for (Py_ssize_t i = 0; i < count; i++, skipped = 0) {
        Py_ssize_t begin = begin_of(self, self->found[i]) + skipped, end = self->ends[self->found[i]];
        memcpy(place, self->pieces + begin, end - begin);
        place += end - begin;
    }
    memcpy(place, after, n_after);
    return result;
}

/* The decision about each segment. */
static PyObject *codes(Kernel *self, PyObject *const *arguments, Py_ssize_t given) {
    if (!decide(self, arguments, given, 3))
        return NULL;
    return PyBytes_FromStringAndSize((const char *)self->row, self->segments);
}

/* Whether each of `count` words is below `bound`, and above the one before it if they ascend. */
static int are_below(const uint32_t *words, Py_ssize_t count, Py_ssize_t bound, int ascend) {
    for (Py_ssize_t i = 0; i < count; i++)
        if ((Py_ssize_t)words[i] >= bound || (ascend && i && words[i] <= words[i - 1]))
            return 0;
    return 1;
}

static int is_sound(const Kernel *self, const Py_ssize_t *sizes) {
    Py_ssize_t n = self->segments;
    if (sizes[1] != 4 * n || sizes[2] != 4 * n || sizes[3] != 20 * self->rollouts ||
        sizes[4] != 4 * self->rollouts || sizes[6] != 4 * n || self->separator < 0)
        return 0;
    for (Py_ssize_t rank = 0; rank < n; rank++)
        if ((Py_ssize_t)self->ends[rank] - begin_of(self, rank) < self->separator)
            return 0;
    return are_below(self->ids, n, PY_SSIZE_T_MAX, 1) && are_below(self->rank_of_id, n, n, 0) &&
           are_below(self->rank_of_rollout, self->rollouts, n, 0) && (n == 0 || self->ends[n - 1] <= sizes[5]);
}

static PyObject *new(PyTypeObject *type, PyObject *arguments, PyObject *named) {
    PyObject *kept[KEPT];
    Py_ssize_t separator, sizes[KEPT];
    char *data[KEPT];
    if (named != NULL && PyDict_Size(named) > 0) {
        PyErr_SetString(PyExc_TypeError, "takes no names");
        return NULL;
    }
    if (!PyArg_ParseTuple(arguments, "SSSSSSSn", &kept[0], &kept[1], &kept[2], &kept[3], &kept[4], &kept[5],
                          &kept[6], &separator))
        return NULL;
    Kernel *self = (Kernel *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    for (int i = 0; i < KEPT; i++) {
        Py_INCREF(kept[i]);
        self->kept[i] = kept[i];
        PyBytes_AsStringAndSize(kept[i], &data[i], &sizes[i]);
    }
    self->separator = separator;
    self->segments = sizes[0];
    self->rollouts = sizes[4] / 4;
    self->undecided = (const uint8_t *)data[0];
    self->ids = (const uint32_t *)data[1];
    self->rank_of_id = (const uint32_t *)data[2];
    self->a = (const uint32_t *)data[3];
    self->b = self->a + self->rollouts;
    self->c = self->b + self->rollouts;
    self->rotated = self->c + self->rollouts;
    self->last = self->rotated + self->rollouts;
    self->rank_of_rollout = (const uint32_t *)data[4];
    self->pieces = data[5];
    self->ends = (const uint32_t *)data[6];
    self->row = PyMem_Calloc(self->segments + 8, 1);
    self->found = PyMem_Calloc(self->segments + 1, sizeof(uint32_t));
    if (self->row == NULL || self->found == NULL)
        PyErr_NoMemory();
    else if (!is_sound(self, sizes))
        PyErr_SetString(PyExc_ValueError, "the parts of the kernel do not fit together");
    else
        return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static void dealloc(Kernel *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    for (int i = 0; i < KEPT; i++)
        Py_XDECREF(self->kept[i]);
    PyMem_Free(self->row);
    PyMem_Free(self->found);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"codes", (PyCFunction)(void (*)(void))codes, METH_FASTCALL, NULL},
    {"join", (PyCFunction)(void (*)(void))join, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot slots[] = {{Py_tp_new, new}, {Py_tp_dealloc, dealloc}, {Py_tp_methods, methods}, {0, NULL}};
static PyType_Spec spec = {"segmentd.replica._kernel.Kernel", sizeof(Kernel), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                           slots};

static int execute(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &spec, NULL);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Kernel", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, NULL, module_slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    return PyModuleDef_Init(&definition);
}
