/* What the kernel's calls alone take to find which pages of files are in memory.

   `kernel_calls PROCESSES LIST`: each line of LIST is a first page, a number of pages and a path.
   That number of processes take one line after the other, and open, map, ask mincore(2), unmap and close;
   nothing is decoded, sorted or written. No program that asks for each page can be faster. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct part {
    size_t first, pages;
    char *path;
};

static void ask(const struct part *part, size_t page)
{
    static unsigned char vector[1 << 16];
    int fd = open(part->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(1, "%s", part->path);
    size_t length = part->pages * page;
    void *address = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)(part->first * page));
    if (address == MAP_FAILED || part->pages > sizeof vector)
        err(1, "mmap: %s", part->path);
    if (mincore(address, length, vector) != 0)
        err(1, "mincore: %s", part->path);
    munmap(address, length);
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: kernel_calls PROCESSES LIST");
    FILE *list = fopen(argv[2], "r");
    if (list == NULL)
        err(1, "%s", argv[2]);
    struct part *parts = NULL, part;
    size_t count = 0, page = (size_t)sysconf(_SC_PAGESIZE);
    while (fscanf(list, "%zu %zu %m[^\n]", &part.first, &part.pages, &part.path) == 3) {
        if (count % 1024 == 0 && (parts = realloc(parts, (count + 1024) * sizeof part)) == NULL)
            err(1, "realloc");
        parts[count++] = part;
    }
    size_t *next = mmap(NULL, sizeof *next, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (next == MAP_FAILED)
        err(1, "mmap");
    for (int n = atoi(argv[1]); n > 0; n--) {
        pid_t pid = fork();
        if (pid < 0)
            err(1, "fork");
        if (pid == 0) {
            size_t taken;
            while ((taken = __sync_fetch_and_add(next, 1)) < count)
                ask(&parts[taken], page);
            _exit(0);
        }
    }
    int status, failed = 0;
    while (wait(&status) > 0)
        failed |= status;
    return failed != 0;
}
