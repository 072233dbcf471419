#define _POSIX_C_SOURCE 200809L
#include "state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file begins with this. The numbers after it are those of one kind of machine: to move a file to
 * another, write them in an order of bytes of your choice. */
typedef struct header {
    char magic[8];
    uint64_t params, moments; /* how many numbers */
    uint64_t seed, epochs, updates;
    uint64_t sum; /* of all numbers */
} header;

static const char MAGIC[8] = {'s', 'u', 'n', 's', 'p', 'o', 't', '1'};

/* FNV-1a: not against ill will, but against a file that something else has cut or changed. */
static uint64_t sum_of(uint64_t sum, const void *data, size_t bytes)
{
    const unsigned char *const at = (const unsigned char *)data;
    for (size_t k = 0; k < bytes; ++k) {
        sum = (sum ^ at[k]) * UINT64_C(1099511628211);
    }
    return sum;
}

static header header_of(const state *s)
{
    const size_t params = forecast_params_size(&s->sizes);
    const size_t moments = forecast_moments_size(&s->sizes);
    header made;
    memset(&made, 0, sizeof made);
    memcpy(made.magic, MAGIC, sizeof MAGIC);
    made.params = params;
    made.moments = moments;
    made.seed = s->seed;
    made.epochs = s->epochs;
    made.updates = s->training.updates;
    made.sum = sum_of(UINT64_C(14695981039346656037), &made, offsetof(header, sum));
    made.sum = sum_of(made.sum, s->training.params, params * sizeof *s->training.params);
    made.sum = sum_of(made.sum, s->training.moments, moments * sizeof *s->training.moments);
    return made;
}

int state_save(const char *path, const state *s)
{
    const header top = header_of(s);
    const size_t size = strlen(path) + sizeof ".new";
    char *const beside = (char *)malloc(size);
    if (beside == NULL) {
        return 1;
    }
    snprintf(beside, size, "%s.new", path);
    FILE *const file = fopen(beside, "wb");
    if (file == NULL) {
        free(beside);
        return 1;
    }
    int failed = fwrite(&top, sizeof top, 1, file) != 1
        || fwrite(s->training.params, sizeof *s->training.params, top.params, file) != top.params
        || fwrite(s->training.moments, sizeof *s->training.moments, top.moments, file)
            != top.moments;
    /* on the disk before it takes the place of the other: for when the power fails */
    failed = fflush(file) != 0 || fsync(fileno(file)) != 0 || failed;
    failed = fclose(file) != 0 || failed;
    failed = failed || rename(beside, path) != 0;
    free(beside);
    return failed;
}

int state_load(const char *path, state *s)
{
    FILE *const file = fopen(path, "rb");
    header top;
    if (file == NULL) {
        return 1;
    }
    const header expected = header_of(s);
    int whole = fread(&top, sizeof top, 1, file) == 1
        && memcmp(top.magic, expected.magic, sizeof top.magic) == 0
        && top.params == expected.params && top.moments == expected.moments;
    whole = whole
        && fread(s->training.params, sizeof *s->training.params, top.params, file) == top.params
        && fread(s->training.moments, sizeof *s->training.moments, top.moments, file)
            == top.moments
        && fgetc(file) == EOF;
    fclose(file);
    if (!whole) {
        return 2;
    }
    s->seed = top.seed;
    s->epochs = top.epochs;
    s->training.updates = top.updates;
    return header_of(s).sum == top.sum ? 0 : 2;
}
